"""Space and time folded into channels, and back.

Shapes: B videos, T frames, G groups of frames, H, W pixels, C channels.
Used by: factorized.py, wan.py.
"""

import jax
import jax.numpy as jnp


def fold(x_BTHWC: jax.Array, ph: int, pw: int) -> jax.Array:
  """Space to depth: [B, T, H, W, C] -> [B, T, H/ph, W/pw, ph pw C]."""
  b, t, h, w, c = x_BTHWC.shape
  x = x_BTHWC.reshape(b, t, h // ph, ph, w // pw, pw, c).transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, t, h // ph, w // pw, ph * pw * c)


def unfold(x_BThwC: jax.Array, ph: int, pw: int) -> jax.Array:
  """Depth to space, the inverse of `fold`."""
  b, t, h, w, _ = x_BThwC.shape
  x = x_BThwC.reshape(b, t, h, w, ph, pw, -1).transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, t, h * ph, w * pw, -1)


def reverse(x: jax.Array, sizes: tuple[int, int, int]) -> jax.Array:
  """Channels that are (a, b, c) become (c, b, a); `sizes` are a, b, c."""
  shape = x.shape
  return x.reshape(*shape[:-1], *sizes).swapaxes(-1, -3).reshape(shape)


def fold_time(x_BTHWC: jax.Array, pt: int, *, first: bool = True) -> jax.Array:
  """[B, T, H, W, C] -> [B, G, H, W, pt C], pt frames a group.

  The first chunk of a video has 1 + pt k frames; frame 0 is repeated pt times.
  """
  x = x_BTHWC
  if first:
    x = jnp.concatenate((jnp.repeat(x[:, :1], pt - 1, axis=1), x), axis=1)
  b, t, h, w, c = x.shape
  x = x.reshape(b, t // pt, pt, h, w, c).transpose(0, 1, 3, 4, 2, 5)
  return x.reshape(b, t // pt, h, w, pt * c)


def unfold_time(x_BGHWC: jax.Array, pt: int, *, first: bool = True) -> jax.Array:
  """The inverse of `fold_time`; of a video's first group only the last frame is kept."""
  b, g, h, w, _ = x_BGHWC.shape
  x = x_BGHWC.reshape(b, g, h, w, pt, -1).transpose(0, 1, 4, 2, 3, 5)
  x = x.reshape(b, g * pt, h, w, -1)
  return x[:, pt - 1 :] if first else x
