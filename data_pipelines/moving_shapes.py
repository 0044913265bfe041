"""A world to learn from: captioned clips of moving shapes, with their ground truth.

Every clip is a function of (seed, index). One or two objects move at constant speed
over a plain dark background; two objects either keep to halves of the frame (captions
with "above" or "beside") or go anywhere, one passing before the other. Images are
one-frame clips. The truth of every object in every frame is kept for evaluation.

Shapes: T frames, H, W pixels, N objects.
Used by: builders/moving_shapes.py, jobs/write_prompts.py.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

from sora_jax.evals import shapes_world as world
from sora_jax.evals.shapes_world import ObjectSpec

_LEAST_TRAVEL = 3.0  # pixels over a clip, so that a motion can be read


@dataclasses.dataclass(frozen=True)
class Clip:
  """One clip with its caption and its truth."""

  frames: np.ndarray  # uint8 [T, H, W, 3]
  caption: str
  truth: dict[str, Any]  # see `MovingShapes.clip`


@dataclasses.dataclass(frozen=True)
class _Box:
  """The part of the frame that an object keeps to, in pixels."""

  top: float
  left: float
  bottom: float
  right: float

  @property
  def side(self) -> float:
    return min(self.bottom - self.top, self.right - self.left)


@dataclasses.dataclass(kw_only=True, slots=True)
class MovingShapes:
  """The distribution of clips."""

  seed: int = 0
  sizes: tuple[tuple[int, int], ...] = (
    (32, 32), (24, 40), (40, 24), (32, 48), (48, 32), (40, 40)
  )  # fmt: skip
  frames: tuple[int, ...] = (5, 9, 13)  # of videos
  image_share: float = 0.12
  two_object_share: float = 0.35  # where the frame has room
  relation_share: float = 0.7  # of two-object clips
  held_out: bool = False  # one-object videos of the held-out kinds, and nothing else
  fps: float = 8.0

  def clip(self, index: int) -> Clip:
    """Clip number `index`.

    Its truth, per object: position and velocity float32 [N, T, 2] (y, x in pixels, and
    pixels per frame), visibility float32 [N, T] (the share that nothing covers), radius
    float32 [N], and as int32 [N] the numbers of color, shape, motion (-1: none) and
    depth (larger is nearer).
    """
    rng = np.random.default_rng([self.seed, int(self.held_out), index])
    height, width = self.sizes[rng.integers(len(self.sizes))]
    is_image = not self.held_out and rng.random() < self.image_share
    frames = 1 if is_image else int(rng.choice(self.frames))
    two = not self.held_out and rng.random() < self.two_object_share
    two &= max(height, width) >= 32
    relation = self._relation(rng, height, width) if two else None
    objects = self._objects(rng, 1 + two, relation, is_image)
    boxes = _boxes(height, width, len(objects), relation)
    background = np.float32(rng.uniform(16, 48))
    tracks = [
      _track(rng, spec, box, frames, crowded=two) for spec, box in zip(objects, boxes)
    ]
    video, visibility = _render(objects, tracks, frames, height, width, background)
    truth = _truth(objects, tracks, visibility)
    return Clip(video, world.caption(objects, relation), truth)

  def _relation(self, rng, height: int, width: int) -> str | None:
    if rng.random() >= self.relation_share:
      return None
    possible = [r for r, side in (("above", height), ("beside", width)) if side >= 32]
    return possible[rng.integers(len(possible))]

  def _objects(
    self, rng, num: int, relation: str | None, is_image: bool
  ) -> tuple[ObjectSpec, ...]:
    """Kinds that the captions may name, in different colors."""
    allowed = world.HELD_OUT if self.held_out else world.TRAINED
    motions = world.RELATIONS[relation] if relation else world.MOTIONS
    kinds = sorted(kind for kind in allowed if kind[2] in motions)
    chosen: list[tuple[str, str, str]] = []
    while len(chosen) < num:
      kind = kinds[rng.integers(len(kinds))]
      if all(kind[0] != other[0] for other in chosen):
        chosen.append(kind)
    return tuple(ObjectSpec(c, s, None if is_image else m) for c, s, m in chosen)


def prompts(n: int, seed: int, *, held_out: bool, num_objects: int) -> list[str]:
  """Captions of videos to sample, spread evenly over the kinds of object.

  Two objects come with a relation, so that they need not overlap.
  """
  rng = np.random.default_rng([seed, num_objects, int(held_out)])
  kinds = [sorted(world.HELD_OUT if held_out else world.TRAINED)]
  if num_objects == 1:
    endless = itertools.chain.from_iterable(
      rng.permutation(kinds[0]).tolist() for _ in itertools.count()
    )
    return [world.caption((ObjectSpec(*k),)) for k in itertools.islice(endless, n)]
  maker = MovingShapes(held_out=False)
  relations = sorted(world.RELATIONS)
  return [
    world.caption(
      maker._objects(rng, 2, relations[i % 2], is_image=False), relations[i % 2]
    )
    for i in range(n)
  ]


def _boxes(height: int, width: int, num: int, relation: str | None) -> list[_Box]:
  whole = _Box(0, 0, height, width)
  if relation == "above":
    return [_Box(0, 0, height / 2, width), _Box(height / 2, 0, height, width)]
  if relation == "beside":
    return [_Box(0, 0, height, width / 2), _Box(0, width / 2, height, width)]
  return [whole] * num


def _track(rng, spec: ObjectSpec, box: _Box, frames: int, *, crowded: bool):
  """(positions [T, 2], velocity [2], radius) of an object that stays in its box."""
  extent = world.extent(spec.shape)
  largest = (box.side / 2 - 0.5) / extent
  radius = min(rng.uniform(5.0, 6.5) if crowded else rng.uniform(5.5, 8.0), largest)
  direction = np.asarray(world.MOTIONS.get(spec.motion, (0, 0)), np.float32)
  if frames > 1:
    # Short frames and large objects: smaller, so that there is room to move.
    along = (box.bottom - box.top) if direction[0] else (box.right - box.left)
    radius = min(radius, (along - _LEAST_TRAVEL - 1.0) / 2 / extent)
    room = along - 2 * radius * extent - 0.5
    speed = min(rng.uniform(1.0, 2.0), room / (frames - 1))
    direction = direction * max(speed, _LEAST_TRAVEL / (frames - 1))
  margin, travel = radius * extent, direction * (frames - 1)
  low = np.asarray((box.top, box.left)) + margin + np.maximum(-travel, 0)
  high = np.asarray((box.bottom, box.right)) - margin - np.maximum(travel, 0)
  start = rng.uniform(low, np.maximum(high, low))
  positions = start + direction * np.arange(frames)[:, None]
  return positions.astype(np.float32), direction, np.float32(radius)


def _render(objects, tracks, frames: int, height: int, width: int, background):
  """(uint8 [T, H, W, 3], visibility [N, T]); later objects are nearer."""
  video = np.full((frames, height, width, 3), background, np.float32)
  masks = [
    world.coverage(spec.shape, height, width, positions, radius)
    for spec, (positions, _, radius) in zip(objects, tracks)
  ]
  for spec, mask in zip(objects, masks):
    color = np.asarray(world.COLORS[spec.color], np.float32)
    video += mask[..., None] * (color - video)
  visibility = []
  for i, mask in enumerate(masks):
    free = np.prod([1 - nearer for nearer in masks[i + 1 :]] or [np.ones_like(mask)], 0)
    visibility.append((mask * free).sum((1, 2)) / mask.sum((1, 2)))
  return np.round(video).astype(np.uint8), np.stack(visibility).astype(np.float32)


def _truth(objects, tracks, visibility: np.ndarray) -> dict[str, Any]:
  number = lambda table, name: list(table).index(name) if name else -1  # noqa: E731
  positions = np.stack([track[0] for track in tracks])
  velocity = np.stack([track[1] for track in tracks])[:, None]
  return {
    "position": positions,
    "velocity": np.broadcast_to(velocity, positions.shape).astype(np.float32),
    "visibility": visibility,
    "radius": np.asarray([track[2] for track in tracks], np.float32),
    "color": np.asarray([number(world.COLORS, o.color) for o in objects], np.int32),
    "shape": np.asarray([number(world.SHAPES, o.shape) for o in objects], np.int32),
    "motion": np.asarray([number(world.MOTIONS, o.motion) for o in objects], np.int32),
    "depth": np.arange(len(objects), dtype=np.int32),
  }
