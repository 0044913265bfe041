"""Distances between videos that see more than single pixels.

  d(x, y) = mean over maps f of |f(x) - f(y)|

A distance is a config with `features(x) -> [maps]`; a learned one (LPIPS,
arXiv:1801.03924) would be another. The one here needs no download, and does not claim to
be a learned one: it compares edges and motion at several scales.

Shapes: B videos, T frames, H, W pixels, C channels.
Used by: objectives/autoencoder.py.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from sora_jax.configlib import config


class Features(Protocol):
  """What `distance` compares two videos by."""

  def features(self, x_BTHWC: jax.Array) -> list[jax.Array]:
    """Maps of any shapes."""


@config
class GradientPyramid:
  """Differences of neighbors in space and in time, at `levels` scales.

  Like the gradient difference loss of arXiv:1511.05440, on a pyramid: blur, which costs
  little squared error, costs most of it.
  """

  levels: int = 3

  def features(self, x_BTHWC: jax.Array) -> list[jax.Array]:
    maps, x = [], x_BTHWC
    for _ in range(self.levels):
      maps += [jnp.diff(x, axis=axis) for axis in (1, 2, 3) if x.shape[axis] > 1]
      b, t, h, w, c = x.shape
      if min(h, w) < 4:
        break
      x = x[:, :, : h // 2 * 2, : w // 2 * 2]
      x = x.reshape(b, t, h // 2, 2, w // 2, 2, c).mean((3, 5))
    return maps


def distance(features: Features, x_BTHWC: jax.Array, y_BTHWC: jax.Array) -> jax.Array:
  """The equation above; 0 for equal videos."""
  pairs = zip(features.features(x_BTHWC), features.features(y_BTHWC))
  parts = [jnp.mean(jnp.abs(a - b)) for a, b in pairs]
  return jnp.mean(jnp.stack(parts))
