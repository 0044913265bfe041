"""A 3-D PatchGAN: one verdict per patch of space and time (arXiv:1611.07004, 1907.02544).

Levels of a convolution within frames of stride two, and a causal one over time.

Shapes: B videos, T frames, H, W pixels; D channels of a level.
Used by: objectives/autoencoder.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax.configlib import config
from sora_jax.nn import layers
from sora_jax.vae.causal import CausalConv3D, Conv2D, Stream


@config
class PatchGanConfig:
  """A verdict sees about 8 times `2 ** levels` pixels a side."""

  width: int = 32  # of the first level; each next one doubles it
  levels: int = 3

  def make(self, rngs: nnx.Rngs) -> "PatchGan":
    return PatchGan(self, rngs=rngs)


class PatchGan(nnx.Module):
  """Frames -> verdicts, high for real ones."""

  def __init__(self, config: PatchGanConfig, *, rngs: nnx.Rngs):
    dims = [3] + [config.width * 2**i for i in range(config.levels)]
    pairs = list(zip(dims[:-1], dims[1:]))
    self.space = nnx.List(
      [Conv2D(i, o, size=4, stride=2, padding="SAME", rngs=rngs) for i, o in pairs]
    )
    self.time = nnx.List(
      [CausalConv3D(o, o, (3, 1, 1), rngs=rngs) for _, o in pairs]
    )
    self.norms = nnx.List([layers.RMSNorm(o, rngs=rngs) for _, o in pairs])
    self.out = layers.Linear(dims[-1], 1, rngs=rngs)

  def __call__(self, x_BTHWC: jax.Array) -> jax.Array:
    """[B, T, H, W, 3] -> [B, T, H / 2^levels, W / 2^levels]."""
    x, stream = x_BTHWC, Stream()
    for space, time, norm in zip(self.space, self.time, self.norms):
      x = jax.nn.leaky_relu(norm(time(space(x), stream)), 0.2)
    return self.out(x)[..., 0]


def hinge(real: jax.Array, fake: jax.Array) -> jax.Array:
  """The discriminator's loss (arXiv:1705.02894)."""
  return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))
