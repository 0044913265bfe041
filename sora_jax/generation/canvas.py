"""What to generate, packed: requests of any size -> rows of noise with their captions.

The noise of a request depends on its seed and size alone, so a sample does not depend
on what it was packed with.

Shapes: as in sora_jax/api.py.
Used by: generation/generator.py, prompts.py, sora_jax/sample.py, serving/studio.py.
"""

import dataclasses
import math
import warnings

import numpy as np

from sora_jax import api
from sora_jax.nn import packing

_LONGEST_PROMPT = 20_000  # characters
_MOST_TOKENS = 1 << 22  # of one request: five minutes of 720p, as Wan counts them


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """One video to make. Raises ValueError for what is none, naming the field."""

  prompt: str
  frames: int
  height: int
  width: int
  seed: int = 0

  def __post_init__(self) -> None:
    if not isinstance(self.prompt, str):
      raise ValueError(f"prompt must be text, not {type(self.prompt).__name__}")
    if len(self.prompt) > _LONGEST_PROMPT:
      raise ValueError(f"prompt must have at most {_LONGEST_PROMPT:,} characters")
    if any("\ud800" <= letter <= "\udfff" for letter in self.prompt):
      raise ValueError("prompt is not valid Unicode")
    for name in ("frames", "height", "width", "seed"):
      value = getattr(self, name)
      if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, not {value!r:.40}")
    sizes = self.frames, self.height, self.width
    if not all(1 <= n < 1 << 31 for n in sizes):
      raise ValueError(
        f"sizes must be positive and below 2**31, got {sizes!s:.80} (frames, height, width)"
      )
    if not 0 <= self.seed < 1 << 63:
      raise ValueError(f"seed must be from 0 to 2**63 - 1, not {self.seed!r:.40}")


def round_to_grid(request: Request, grid: tuple[int, int, int]) -> Request:
  """As `on_grid`; warns where the size changes."""
  rounded = on_grid(request, grid)
  if rounded != request:
    warnings.warn(
      f"{request.frames} frames of {request.height}x{request.width} are rounded to "
      f"{rounded.frames} frames of {rounded.height}x{rounded.width}, the model's grid",
      stacklevel=2,
    )
  return rounded


def on_grid(request: Request, grid: tuple[int, int, int]) -> Request:
  """The request with its size on the grid (1 + gt k frames, multiples of gh, gw).

  Raises:
    ValueError: it is larger than any memory.
  """
  if num_tokens(request, grid) > _MOST_TOKENS:
    raise ValueError(
      f"{request.frames} frames of {request.height}x{request.width} are more than "
      f"{_MOST_TOKENS:,} tokens: make it smaller or shorter"
    )
  gt, gh, gw = grid
  return dataclasses.replace(
    request,
    frames=1 + gt * round((request.frames - 1) / gt),
    height=gh * max(1, round(request.height / gh)),
    width=gw * max(1, round(request.width / gw)),
  )


def num_tokens(request: Request, grid: tuple[int, int, int]) -> int:
  """That the model works on for a request, about."""
  gt, gh, gw = grid
  return (1 + request.frames // gt) * -(-request.height // gh) * -(-request.width // gw)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a request stands on the canvas."""

  row: int
  span: slice  # of the row's tokens
  size: tuple[int, int, int]  # in patches


def pack(
  requests: list[Request], sizes: list[tuple[int, int, int]], *,
  captions: list[np.ndarray], token_dim: int, tokens_per_row: int,
) -> tuple[api.PackedTokens, list[Place]]:  # fmt: skip
  """The canvas, and the place of each request on it.

  Args:
    requests: what to make.
    sizes: of each request in patches (t, h, w).
    captions: token ids [m] or embeddings [m, D] of each prompt.
    token_dim: P.
    tokens_per_row: the least row length; rows grow where one clip is longer.
  """
  lengths = [math.prod(size) for size in sizes]
  tokens_per_row = max(tokens_per_row, 128 * math.ceil(max(lengths) / 128))
  rows = _first_fit_decreasing(lengths, tokens_per_row)
  num_segments = _round_up(max(len(row) for row in rows), 4)
  num_text = _round_up(max(sum(len(captions[i]) for i in row) for row in rows), 16)
  canvas = packing.empty(
    len(rows), tokens=tokens_per_row, token_dim=token_dim, text=num_text,
    segments=num_segments, text_dim=captions[0].shape[1] if captions[0].ndim > 1 else None,
  )  # fmt: skip
  places: list[Place | None] = [None] * len(requests)
  for b, row in enumerate(rows):
    for i in row:
      noise = np.random.default_rng([requests[i].seed, *sizes[i]])
      span = packing.append(
        canvas, b, size=sizes[i], text=captions[i], clip_id=i,
        tokens=noise.standard_normal((lengths[i], token_dim)),
      )  # fmt: skip
      places[i] = Place(b, span, sizes[i])
  return canvas, places


def _first_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
  """Indices per row: the longest first, each into the first row that has room."""
  rows: list[list[int]] = []
  room: list[int] = []
  for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
    row = next((r for r, free in enumerate(room) if free >= lengths[i]), len(rows))
    if row == len(rows):
      rows.append([])
      room.append(capacity)
    rows[row].append(i)
    room[row] -= lengths[i]
  return rows


def _round_up(n: int, multiple: int) -> int:
  return multiple * math.ceil(n / multiple)
