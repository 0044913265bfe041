"""Rows of PackedTokens on the host, filled clip by clip.

Training data is packed by Grain (data_pipelines/loader.py); this is for what is packed
by hand: the canvas of a sampler, benchmarks, tests.

Shapes: as in sora_jax/api.py; n tokens of one clip.
Used by: generation/canvas.py.
"""

import numpy as np

from sora_jax import api
from sora_jax.nn import patches


def empty(
  rows: int, *, tokens: int, token_dim: int, text: int, segments: int,
  text_dim: int | None = None,
) -> api.PackedTokens:  # fmt: skip
  """Rows of nothing but padding, as writable numpy arrays.

  Text is token ids, or with `text_dim` embeddings of that width.
  """
  zeros = lambda *shape: np.zeros((rows, *shape), np.int32)  # noqa: E731
  return api.PackedTokens(
    tokens=np.zeros((rows, tokens, token_dim), np.float32),
    positions=zeros(tokens, 3),
    segment_ids=zeros(tokens),
    known=np.zeros((rows, tokens), bool),
    text=zeros(text) if text_dim is None else np.zeros((rows, text, text_dim), np.float32),
    text_segment_ids=zeros(text),
    text_positions=zeros(text),
    sizes=zeros(segments, 3),
    fps=np.zeros((rows, segments), np.float32),
    clip_ids=np.full((rows, segments), -1, np.int32),
    text_dropped=np.zeros((rows, segments), bool),
  )


def append(
  batch: api.PackedTokens, row: int, *, size: tuple[int, int, int],
  tokens: np.ndarray, text: np.ndarray, clip_id: int,
) -> slice:  # fmt: skip
  """Writes a clip behind those that stand in a row; returns where its tokens lie.

  Args:
    batch: from `empty`; changed in place.
    row: which row; it must have room.
    size: in patches (t, h, w); n = t h w.
    tokens: [n, P].
    text: token ids of the caption, or its embeddings.
    clip_id: stored for the caller.
  """
  segment = int((batch.clip_ids[row] >= 0).sum())
  start = int((batch.segment_ids[row] > 0).sum())
  word = int((batch.text_segment_ids[row] > 0).sum())
  span, words = slice(start, start + len(tokens)), slice(word, word + len(text))
  batch.tokens[row, span] = tokens
  batch.positions[row, span] = patches.positions(size)
  batch.segment_ids[row, span] = segment + 1
  batch.text[row, words] = text
  batch.text_segment_ids[row, words] = segment + 1
  batch.text_positions[row, words] = np.arange(len(text))
  batch.sizes[row, segment] = size
  batch.clip_ids[row, segment] = clip_id
  return span
