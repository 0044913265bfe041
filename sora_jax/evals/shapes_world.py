"""The world of moving shapes: its words, its captions and its geometry.

Eight colors, three shapes and four motions make 96 kinds of object; captions name one
or two of them. 14 kinds are held out of training, so that a model can be asked for
combinations that it has never seen.

Shapes: H, W pixels. A position is (y, x) in pixels, y down, pixel centers at + 0.5.
Used by: data_pipelines/moving_shapes.py (draws it), shapes_checker.py (reads it back).
"""

import dataclasses
import itertools
import re

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
  "red": (230, 40, 40),
  "green": (40, 200, 60),
  "blue": (50, 80, 240),
  "yellow": (240, 220, 50),
  "magenta": (220, 60, 220),
  "cyan": (60, 220, 230),
  "orange": (250, 140, 30),
  "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle")
MOTIONS: dict[str, tuple[int, int]] = {
  "left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)
}  # fmt: skip
# With a relation the two objects keep to halves of the frame, and never overlap.
RELATIONS: dict[str, tuple[str, str]] = {
  "above": ("left", "right"), "beside": ("up", "down")
}  # fmt: skip

# Spread over all colors, shapes and motions; every color, every shape and every
# pair of attributes is still seen in training (a test holds it).
HELD_OUT = frozenset({
  ("red", "circle", "up"), ("red", "triangle", "left"),
  ("green", "square", "down"), ("green", "circle", "right"),
  ("blue", "triangle", "right"), ("blue", "square", "up"),
  ("yellow", "circle", "left"), ("yellow", "triangle", "down"),
  ("magenta", "square", "left"), ("magenta", "circle", "down"),
  ("cyan", "triangle", "up"), ("cyan", "square", "right"),
  ("orange", "circle", "down"), ("white", "square", "up"),
})  # fmt: skip

ALL_KINDS = frozenset(itertools.product(COLORS, SHAPES, MOTIONS))
TRAINED = ALL_KINDS - HELD_OUT

_OBJECT = rf"an? ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
_MOTION = rf"(?: moves ({'|'.join(MOTIONS)}))?"
_CAPTION = re.compile(
  rf"{_OBJECT}{_MOTION}(?: (and|{'|'.join(RELATIONS)}) {_OBJECT}{_MOTION})?"
)


@dataclasses.dataclass(frozen=True)
class ObjectSpec:
  """What a caption says of one object; in an image it has no motion."""

  color: str
  shape: str
  motion: str | None

  def __str__(self) -> str:
    article = "an" if self.color == "orange" else "a"
    moves = f" moves {self.motion}" if self.motion else ""
    return f"{article} {self.color} {self.shape}{moves}"


def caption(objects: tuple[ObjectSpec, ...], relation: str | None = None) -> str:
  """"a red circle moves left above a blue square moves right", for example.

  Args:
    objects: one or two.
    relation: "above" (first in the upper half, second in the lower) or "beside" (left
      and right half); None leaves both anywhere.
  """
  assert len(objects) in (1, 2) and (relation is None or len(objects) == 2)
  return f" {relation or 'and'} ".join(str(o) for o in objects)


def parse_caption(text: str) -> tuple[tuple[ObjectSpec, ...], str | None]:
  """The inverse of `caption`: (objects, relation).

  Raises:
    ValueError: the text is not a caption of this world.
  """
  match = _CAPTION.fullmatch(text)
  if not match:
    raise ValueError(
      f"{text!r} is not a caption of moving shapes, such as 'a red circle moves left' "
      "or 'a red circle moves left above a blue square moves right'"
    )
  color, shape, motion, joint, *second = match.groups()
  objects = (ObjectSpec(color, shape, motion),)
  if joint:
    objects += (ObjectSpec(*second),)
  return objects, joint if joint in RELATIONS else None


def extent(shape: str) -> float:
  """Half the height or width of a shape of radius 1, whichever is larger."""
  return {"circle": 1.0, "square": 0.886, "triangle": 1.2}[shape]


def coverage(
  shape: str, height: int, width: int, center: np.ndarray, radius: float
) -> np.ndarray:
  """How much of each pixel a shape covers, float32 [..., H, W] in [0, 1].

  A square has the area of the circle of that radius; a triangle is as wide as high,
  points up, and has nearly that area. Edges are smooth over one pixel.

  Args:
    center: [..., 2], (y, x) of the middle of the bounding box.
    radius: in pixels.
  """
  center = np.asarray(center, np.float32)[..., None, None, :]
  y = np.arange(height, dtype=np.float32)[:, None] + 0.5 - center[..., 0]
  x = np.arange(width, dtype=np.float32)[None, :] + 0.5 - center[..., 1]
  half = np.float32(radius * extent(shape))
  if shape == "circle":
    distance = np.hypot(y, x) - half
  elif shape == "square":
    distance = np.maximum(np.abs(y), np.abs(x)) - half
  else:
    # Base at y = half, apex at y = -half; the sides have slope 2.
    side = (2.0 * np.abs(x) - (y + half)) / np.float32(np.sqrt(5.0))
    distance = np.maximum(y - half, side)
  return np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)
