"""Videos of latents <-> sequences of spacetime patches.

A patch of (pt, ph, pw) latents is one token; its values stand in (t, h, w, channel)
order and tokens in (t, h, w) order. The functions work on numpy and JAX arrays alike.

Shapes: T, H, W latents; C channels; L = T/pt * H/ph * W/pw tokens; P = pt ph pw C.
"""

import math

import numpy as np

from sora_jax.api import Array

Patch = tuple[int, int, int]


def grid(shape: tuple[int, ...], patch: Patch) -> tuple[int, int, int]:
  """(T, H, W) of latents -> their number of patches along each axis.

  Raises:
    ValueError: the patch does not divide the latents.
  """
  if any(n % p for n, p in zip(shape[:3], patch)):
    raise ValueError(
      f"latents of {tuple(shape[:3])} (T, H, W) do not divide into patches of {patch}"
    )
  return tuple(n // p for n, p in zip(shape[:3], patch))


def patchify(x_THWC: Array, patch: Patch) -> Array:
  """[T, H, W, C] -> [L, P]."""
  (t, h, w), (pt, ph, pw) = grid(x_THWC.shape, patch), patch
  x = x_THWC.reshape(t, pt, h, ph, w, pw, -1).transpose(0, 2, 4, 1, 3, 5, 6)
  return x.reshape(t * h * w, -1)


def unpatchify(tokens_LP: Array, size: tuple[int, int, int], patch: Patch) -> Array:
  """[L, P] of a clip of `size` patches -> [T, H, W, C]."""
  (t, h, w), (pt, ph, pw) = size, patch
  assert tokens_LP.shape[0] == math.prod(size), (tokens_LP.shape, size)
  x = tokens_LP.reshape(t, h, w, pt, ph, pw, -1).transpose(0, 3, 1, 4, 2, 5, 6)
  return x.reshape(t * pt, h * ph, w * pw, -1)


def positions(size: tuple[int, int, int]) -> np.ndarray:
  """The (t, h, w) of every token of a clip, int32 [L, 3]."""
  coordinates = np.meshgrid(*(np.arange(n) for n in size), indexing="ij")
  return np.stack(coordinates, -1).reshape(-1, 3).astype(np.int32)
