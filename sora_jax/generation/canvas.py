"""What to generate, packed: requests of any size -> rows of noise with their captions.

The noise of a request depends on its seed and size alone, so a sample does not depend
on what it was packed with.

Shapes: as in sora_jax/api.py.
Used by: generation/generator.py.
"""

import dataclasses
import math
import warnings

import numpy as np

from sora_jax import api
from sora_jax.nn import patches
from sora_jax.text import tokenizers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """One video to make."""

  prompt: str
  frames: int
  height: int
  width: int
  seed: int = 0


def round_to_grid(request: Request, grid: tuple[int, int, int]) -> Request:
  """The request with its size on the grid (1 + gt k frames, multiples of gh, gw).

  Warns where the size changes; raises ValueError where it is not positive.
  """
  asked = request.frames, request.height, request.width
  if min(asked) < 1:
    raise ValueError(f"sizes must be positive, got {asked} (frames, height, width)")
  gt, gh, gw = grid
  rounded = (
    1 + gt * round((request.frames - 1) / gt),
    gh * max(1, round(request.height / gh)),
    gw * max(1, round(request.width / gw)),
  )
  if rounded != asked:
    warnings.warn(
      f"{asked[0]} frames of {asked[1]}x{asked[2]} are rounded to {rounded[0]} frames "
      f"of {rounded[1]}x{rounded[2]}, the model's grid",
      stacklevel=2,
    )
  frames, height, width = rounded
  return dataclasses.replace(request, frames=frames, height=height, width=width)


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a request stands on the canvas."""

  row: int
  start: int
  size: tuple[int, int, int]  # in patches


def pack(
  requests: list[Request], sizes: list[tuple[int, int, int]], *,
  tokenizer: tokenizers.WordTokenizer | tokenizers.ByteTokenizer,
  token_dim: int, tokens_per_row: int,
) -> tuple[api.PackedTokens, list[Place]]:  # fmt: skip
  """The canvas, and the place of each request on it.

  Args:
    requests: what to make.
    sizes: of each request in patches (t, h, w).
    tokenizer: the model's.
    token_dim: P.
    tokens_per_row: the least row length; rows grow where one clip is longer.
  """
  lengths = [math.prod(size) for size in sizes]
  tokens_per_row = max(tokens_per_row, 128 * math.ceil(max(lengths) / 128))
  rows = _first_fit_decreasing(lengths, tokens_per_row)
  captions = [tokenizer.encode(request.prompt) for request in requests]
  num_segments = _round_up(max(len(row) for row in rows), 4)
  num_text = _round_up(max(sum(len(captions[i]) for i in row) for row in rows), 16)
  canvas = _empty(len(rows), tokens_per_row, token_dim, num_segments, num_text)

  places: list[Place | None] = [None] * len(requests)
  for b, row in enumerate(rows):
    start = text_start = 0
    for s, i in enumerate(row):
      stop, text_stop = start + lengths[i], text_start + len(captions[i])
      noise = np.random.default_rng([requests[i].seed, *sizes[i]])
      canvas.tokens[b, start:stop] = noise.standard_normal((lengths[i], token_dim))
      canvas.positions[b, start:stop] = patches.positions(sizes[i])
      canvas.segment_ids[b, start:stop] = s + 1
      canvas.text[b, text_start:text_stop] = captions[i]
      canvas.text_segment_ids[b, text_start:text_stop] = s + 1
      canvas.text_positions[b, text_start:text_stop] = np.arange(len(captions[i]))
      canvas.sizes[b, s] = sizes[i]
      canvas.clip_ids[b, s] = i
      places[i] = Place(b, start, sizes[i])
      start, text_start = stop, text_stop
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


def _empty(
  rows: int, tokens: int, token_dim: int, segments: int, text: int
) -> api.PackedTokens:
  zeros = lambda *shape: np.zeros(shape, np.int32)  # noqa: E731
  return api.PackedTokens(
    tokens=np.zeros((rows, tokens, token_dim), np.float32),
    positions=zeros(rows, tokens, 3),
    segment_ids=zeros(rows, tokens),
    known=np.zeros((rows, tokens), bool),
    text=zeros(rows, text),
    text_segment_ids=zeros(rows, text),
    text_positions=zeros(rows, text),
    sizes=zeros(rows, segments, 3),
    fps=np.zeros((rows, segments), np.float32),
    clip_ids=np.full((rows, segments), -1, np.int32),
    text_dropped=np.zeros((rows, segments), bool),
  )


def _round_up(n: int, multiple: int) -> int:
  return multiple * math.ceil(n / multiple)
