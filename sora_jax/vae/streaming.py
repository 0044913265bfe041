"""Videos of any length and size through an autoencoder, in bounded memory.

Time goes through in chunks, with what the causal layers saw last as the carry: the same
values as all at once. Space goes through in overlapping tiles that are blended with
linear ramps: almost the same values, and no seams.

Shapes: B videos, T frames, H, W pixels; t, h, w latents; Z latent channels; n latents a
chunk.
Used by: generation/codec.py.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sora_jax.configlib import config
from sora_jax.nn.skeleton import Arrays, Skeleton
from sora_jax.vae.causal import Frames, Stream

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@config
class Pieces:
  """How much of a video is on the device at once, in latents."""

  positions: int = 4096  # of one call, at the most; but always a frame of a tile
  tile: int | None = None  # along each side; None for all of it
  overlap: int = 8  # of neighboring tiles
  dtype: str = "float32"  # what the network computes in

  def __post_init__(self) -> None:
    if self.tile is not None and not 0 <= self.overlap < self.tile:
      raise ValueError(f"overlap={self.overlap} must be in [0, tile={self.tile})")
    if self.dtype not in DTYPES:
      raise ValueError(f"dtype={self.dtype!r} must be one of {sorted(DTYPES)}")

  def chunk(self, h: int, w: int) -> int:
    """Latents along time that go through at once, for frames of h x w latents."""
    tile = self.tile or max(h, w)
    return max(1, self.positions // (min(h, tile) * min(w, tile)))


def encode_chunk(
  skeleton: Skeleton, dtype: str, params: Arrays, other: Arrays,
  frames: jax.Array, before: Frames | None, key: jax.Array | None = None,
) -> tuple[jax.Array, Frames]:  # fmt: skip
  """uint8 [B, ct n, H, W, 3] (the first: 1 + ct (n - 1)) -> latents [B, n, h, w, Z].

  `before` is the second result of the chunk before, None for the first. Pure: to be
  jitted with the first two arguments fixed.
  """
  stream = Stream(before)
  x = (frames.astype(jnp.float32) / 127.5 - 1.0).astype(DTYPES[dtype])
  latents = skeleton.merge(params, other).encode(x, stream, key)
  return latents.astype(jnp.float32), stream.after


def decode_chunk(
  skeleton: Skeleton, dtype: str, params: Arrays, other: Arrays,
  latents: jax.Array, before: Frames | None,
) -> tuple[jax.Array, Frames]:  # fmt: skip
  """Latents [B, n, h, w, Z] -> uint8 frames; the inverse of `encode_chunk`."""
  stream = Stream(before)
  model = skeleton.merge(params, other)
  # The latents' scale is applied in float32, whatever the network computes in.
  frames = model.decode(latents, stream, dtype=DTYPES[dtype])
  frames = jnp.round((frames.astype(jnp.float32) + 1.0) * 127.5)
  return jnp.clip(frames, 0, 255).astype(jnp.uint8), stream.after


@dataclasses.dataclass(frozen=True)
class Streamer:
  """An autoencoder with its arrays, compiled per size of chunk and tile."""

  skeleton: Skeleton
  params: Arrays
  other: Arrays
  compression: tuple[int, int, int]
  pieces: Pieces

  def encode(
    self, videos: np.ndarray, key: jax.Array | None = None
  ) -> np.ndarray:
    """uint8 [B, T, H, W, 3] -> float32 latents [B, t, h, w, Z].

    The mean of the posterior, or with a key a sample.

    Raises:
      ValueError: a sample is asked for in tiles.
    """
    ct, ch, cw = self.compression
    h, w = videos.shape[2] // ch, videos.shape[3] // cw
    chunk = self.pieces.chunk(h, w)
    if key is not None and self.pieces.tile is not None:
      # Where tiles overlap, the mean of two samples is no sample.
      raise ValueError("latents cannot be sampled in tiles: leave out --sample or --tile")

    def one_tile(top: slice, left: slice) -> np.ndarray:
      rows = slice(top.start * ch, top.stop * ch)
      tile = videos[:, :, rows, left.start * cw : left.stop * cw]
      return self._through_time(self._encode, tile, chunk, ct, 1, key)

    return self._over_tiles(one_tile, h, w, (1, 1))

  def decode(self, latents: np.ndarray) -> np.ndarray:
    """float32 latents [B, t, h, w, Z] -> uint8 frames [B, T, H, W, 3]."""
    h, w = latents.shape[2:4]
    ct, *scale = self.compression
    chunk = self.pieces.chunk(h, w)

    def one_tile(top: slice, left: slice) -> np.ndarray:
      tile = latents[:, :, top, left]
      return self._through_time(self._decode, tile, chunk, 1, ct, None)

    return self._over_tiles(one_tile, h, w, scale)

  @functools.cached_property
  def _encode(self) -> Callable:
    fixed = functools.partial(encode_chunk, self.skeleton, self.pieces.dtype)
    return functools.partial(jax.jit(fixed, donate_argnums=3), self.params, self.other)

  @functools.cached_property
  def _decode(self) -> Callable:
    def fixed(params, other, latents, before, key):
      del key
      return decode_chunk(
        self.skeleton, self.pieces.dtype, params, other, latents, before
      )

    return functools.partial(jax.jit(fixed, donate_argnums=3), self.params, self.other)

  def _through_time(
    self, apply: Callable, x: np.ndarray, chunk: int, per_latent: int, per_output: int,
    key: jax.Array | None,
  ) -> np.ndarray:  # fmt: skip
    """All of x in chunks; `per_latent` items of x, `per_output` of the result a latent."""
    outputs, before = [], None
    for number, (piece, keep) in enumerate(chunks_of_time(x, chunk, per_latent)):
      noise = None if key is None else jax.random.fold_in(key, number)
      out, before = apply(jnp.asarray(piece), before, noise)
      frames = 1 + (keep - 1) * per_output if number == 0 else keep * per_output
      outputs.append(jax.device_get(out)[:, :frames])
    return np.concatenate(outputs, axis=1)

  def _over_tiles(
    self, one_tile: Callable, h: int, w: int, scale: Sequence[int]
  ) -> np.ndarray:
    """Blends the results of all tiles; `scale` is their size over that in latents."""
    tile, overlap = self.pieces.tile, self.pieces.overlap
    tops, lefts = tiles_of(h, tile, overlap), tiles_of(w, tile, overlap)
    if len(tops) == len(lefts) == 1:
      return one_tile(tops[0], lefts[0])
    total = weights = None
    for top in tops:
      for left in lefts:
        out = one_tile(top, left)
        if total is None:
          shape = (*out.shape[:2], h * scale[0], w * scale[1], out.shape[-1])
          total, weights = np.zeros(shape, np.float32), np.zeros(shape[2:4])
        rows = slice(top.start * scale[0], top.stop * scale[0])
        columns = slice(left.start * scale[1], left.stop * scale[1])
        ramp = np.outer(
          _ramp(rows, h * scale[0], overlap * scale[0]),
          _ramp(columns, w * scale[1], overlap * scale[1]),
        ).astype(np.float32)
        total[:, :, rows, columns] += out * ramp[:, :, None]
        weights[rows, columns] += ramp
    total /= weights[:, :, None].astype(np.float32)
    return np.round(total).astype(out.dtype) if out.dtype == np.uint8 else total


def chunks_of_time(
  x: np.ndarray, chunk: int, per_latent: int
) -> Iterator[tuple[np.ndarray, int]]:
  """(chunk of x along dim 1, latents of it that count), all of one length or shorter.

  What is missing in the last one is its last frame, repeated; nothing before depends on
  it, as the network is causal.
  """
  latents = 1 + (x.shape[1] - 1) // per_latent
  for start in range(0, latents, chunk):
    keep = min(chunk, latents - start)
    size = keep if latents <= chunk else chunk
    first = 0 if start == 0 else 1 + per_latent * (start - 1)
    stop = 1 + per_latent * (start + size - 1)
    piece = x[:, first:stop]
    missing = stop - first - piece.shape[1]
    yield np.concatenate((piece, np.repeat(piece[:, -1:], missing, axis=1)), 1), keep


def tiles_of(size: int, tile: int | None, overlap: int) -> list[slice]:
  """Slices of one length that cover `size`, and overlap by at least `overlap`."""
  if tile is None or size <= tile:
    return [slice(0, size)]
  count = -(-(size - overlap) // (tile - overlap))
  starts = [round(i * (size - tile) / (count - 1)) for i in range(count)]
  return [slice(start, start + tile) for start in starts]


def _ramp(span: slice, size: int, overlap: int) -> np.ndarray:
  """The weight of a tile's values along one side: falls off where others overlap."""
  position = np.arange(span.start, span.stop)
  up = (position - span.start + 0.5) / max(overlap, 1)
  down = (span.stop - position - 0.5) / max(overlap, 1)
  up = up if span.start > 0 else np.ones_like(up)
  down = down if span.stop < size else np.ones_like(down)
  return np.clip(np.minimum(up, down), 1e-3, 1.0)
