"""A small and fast video compression network, for CPUs and for the demo.

Time comes in groups of `pt` frames whose first holds frame 0 alone (repeated). A 3-D
convolution is factorized into a 3x3 convolution within frames and a causal linear map
over (previous, current) group, which is what CPUs and TPUs like.

Shapes: B videos, T frames, H, W pixels; G = 1 + (T - 1) / pt groups; h, w = H, W over
the spatial compression; C channels, Z latent channels.
Used by: configs/demo.py, configs/vae.py. Next: autoencoder.py.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax.configlib import config
from sora_jax.nn import layers
from sora_jax.vae import autoencoder
from sora_jax.vae.causal import Conv2D, Stream
from sora_jax.vae.folding import fold, fold_time, unfold, unfold_time


@config
class FactorizedConfig(autoencoder.AutoencoderConfig):
  """Sizes; compression is `patch` times 2 in space."""

  patch: tuple[int, int, int] = (4, 4, 4)  # folded into channels at the outer level
  widths: tuple[int, int] = (64, 128)  # channels of the outer and the inner level
  encoder_blocks: tuple[int, int] = (1, 1)  # at the outer and the inner level
  decoder_blocks: tuple[int, int] = (2, 2)

  @property
  def compression(self) -> tuple[int, int, int]:
    pt, ph, pw = self.patch
    return pt, 2 * ph, 2 * pw

  def make(self, rngs: nnx.Rngs) -> "FactorizedAutoencoder":
    return FactorizedAutoencoder(self, rngs=rngs)


class Block(nnx.Module):
  """x + temporal(silu(conv(norm(x)))), causal in time."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.norm = layers.RMSNorm(dim, rngs=rngs)
    self.conv = Conv2D(dim, dim, rngs=rngs)
    self.time = layers.Linear(2 * dim, dim, init=layers.zeros, rngs=rngs)

  def __call__(self, x_BGhwC: jax.Array, stream: Stream) -> jax.Array:
    y_BGhwC = jax.nn.silu(self.conv(self.norm(x_BGhwC)))
    before = stream.extend(y_BGhwC, 1)[:, :-1]
    return x_BGhwC + self.time(jnp.concatenate((before, y_BGhwC), -1))


class Level(nnx.Module):
  """Blocks of one width, one after another."""

  def __init__(self, dim: int, num_blocks: int, *, rngs: nnx.Rngs):
    self.blocks = nnx.List([Block(dim, rngs=rngs) for _ in range(num_blocks)])

  def __call__(self, x_BGhwC: jax.Array, stream: Stream) -> jax.Array:
    for block in self.blocks:
      x_BGhwC = block(x_BGhwC, stream)
    return x_BGhwC


class FactorizedAutoencoder(autoencoder.Autoencoder):
  """Two levels of blocks on either side of the bottleneck."""

  def __init__(self, config: FactorizedConfig, *, rngs: nnx.Rngs):
    super().__init__(config, rngs=rngs)
    pt, ph, pw = config.patch
    pixels, (outer, inner) = 3 * pt * ph * pw, config.widths
    linear = functools.partial(layers.Linear, rngs=rngs)

    self.encode_in = linear(pixels, outer, axes=(None, "embed"))
    self.encode_outer = Level(outer, config.encoder_blocks[0], rngs=rngs)
    self.encode_down = linear(4 * outer, inner)
    self.encode_inner = Level(inner, config.encoder_blocks[1], rngs=rngs)
    self.encode_norm = layers.RMSNorm(inner, rngs=rngs)
    self.encode_out = linear(inner, config.bottleneck.num_inputs)

    self.decode_in = linear(config.latent_channels, inner, axes=(None, "embed"))
    self.decode_inner = Level(inner, config.decoder_blocks[1], rngs=rngs)
    self.decode_up = linear(inner, 4 * outer)
    self.decode_outer = Level(outer, config.decoder_blocks[0], rngs=rngs)
    self.decode_norm = layers.RMSNorm(outer, rngs=rngs)
    self.decode_out = linear(outer, pixels)

  def to_bottleneck(self, x_BTHWC: jax.Array, stream: Stream) -> jax.Array:
    pt, ph, pw = self.config.patch
    x = fold(fold_time(x_BTHWC, pt, first=stream.first), ph, pw)
    x = self.encode_outer(self.encode_in(x), stream)
    x = self.encode_inner(self.encode_down(fold(x, 2, 2)), stream)
    return self.encode_out(self.encode_norm(x))

  def to_frames(self, z_BGhwZ: jax.Array, stream: Stream) -> jax.Array:
    pt, ph, pw = self.config.patch
    x = self.decode_inner(self.decode_in(z_BGhwZ), stream)
    x = self.decode_outer(unfold(self.decode_up(x), 2, 2), stream)
    x = unfold(self.decode_out(self.decode_norm(x)), ph, pw)
    return unfold_time(x, pt, first=stream.first)
