"""The video compression network: a causal spatiotemporal autoencoder (KL).

Frames [-1, 1] -> latents and back. Time is causal and comes in groups of `pt` frames
whose first holds frame 0 alone (repeated), so 1 + pt k frames give 1 + k latents, an
image is a one-frame video, and a prefix of the frames gives a prefix of the latents.

A 3-D convolution is factorized into a 3x3 convolution within frames and a causal
linear map over (previous, current) group, which is what CPUs and TPUs like.

Latents leave `encode` with zero mean and unit deviation per channel; the running
statistics for that are part of the model.

Shapes: B videos, T frames, H, W pixels; G = 1 + (T - 1) / pt groups; h, w = H, W over
the spatial compression; C channels, Z latent channels.
Used by: objectives/autoencoder.py, generation/codec.py.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax.configlib import config
from sora_jax.nn import layers


class Statistics(nnx.Variable):
  """Running moments of the latents: carried and saved, not trained."""


@config
class AutoencoderConfig:
  """Sizes of the autoencoder; compression is `patch` times 2 in space."""

  latent_channels: int = 24
  patch: tuple[int, int, int] = (4, 4, 4)  # folded into channels at the outer level
  widths: tuple[int, int] = (64, 128)  # channels of the outer and the inner level
  encoder_blocks: tuple[int, int] = (1, 1)  # at the outer and the inner level
  decoder_blocks: tuple[int, int] = (2, 2)
  statistics_decay: float = 0.99

  @property
  def compression(self) -> tuple[int, int, int]:
    """Frames, pixels and pixels per latent along t, h, w."""
    pt, ph, pw = self.patch
    return pt, 2 * ph, 2 * pw

  def latent_size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
    """(T, H, W) of a video -> that of its latents.

    Raises:
      ValueError: the video is off the grid; says the nearest size on it.
    """
    ct, ch, cw = self.compression
    if (frames - 1) % ct or height % ch or width % cw or min(frames, height, width) < 1:
      near = (
        1 + ct * max(0, round((frames - 1) / ct)),
        ch * max(1, round(height / ch)), cw * max(1, round(width / cw)),
      )  # fmt: skip
      raise ValueError(
        f"a video of {frames} frames of {height}x{width} is off the codec's grid (1 + "
        f"{ct} k frames, multiples of {ch}x{cw}); the nearest size is {near[0]} frames "
        f"of {near[1]}x{near[2]}"
      )
    return 1 + (frames - 1) // ct, height // ch, width // cw

  def make(self, rngs: nnx.Rngs) -> "Autoencoder":
    return Autoencoder(self, rngs=rngs)


def fold(x_BGHWC: jax.Array, ph: int, pw: int) -> jax.Array:
  """Space to depth: [B, G, H, W, C] -> [B, G, H/ph, W/pw, ph pw C]."""
  b, g, h, w, c = x_BGHWC.shape
  x = x_BGHWC.reshape(b, g, h // ph, ph, w // pw, pw, c).transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, g, h // ph, w // pw, ph * pw * c)


def unfold(x_BGhwC: jax.Array, ph: int, pw: int) -> jax.Array:
  """Depth to space, the inverse of `fold`."""
  b, g, h, w, _ = x_BGhwC.shape
  x = x_BGhwC.reshape(b, g, h, w, ph, pw, -1).transpose(0, 1, 2, 4, 3, 5, 6)
  return x.reshape(b, g, h * ph, w * pw, -1)


def fold_time(x_BTHWC: jax.Array, pt: int) -> jax.Array:
  """[B, 1 + pt k, H, W, C] -> [B, 1 + k, H, W, pt C]; frame 0 is repeated pt times."""
  first = jnp.repeat(x_BTHWC[:, :1], pt - 1, axis=1)
  x = jnp.concatenate((first, x_BTHWC), axis=1)
  b, t, h, w, c = x.shape
  x = x.reshape(b, t // pt, pt, h, w, c).transpose(0, 1, 3, 4, 2, 5)
  return x.reshape(b, t // pt, h, w, pt * c)


def unfold_time(x_BGHWC: jax.Array, pt: int) -> jax.Array:
  """The inverse of `fold_time`; of the first group only the last frame is kept."""
  b, g, h, w, _ = x_BGHWC.shape
  x = x_BGHWC.reshape(b, g, h, w, pt, -1).transpose(0, 1, 4, 2, 3, 5)
  return x.reshape(b, g * pt, h, w, -1)[:, pt - 1 :]


class Block(nnx.Module):
  """x + temporal(silu(conv(norm(x)))), causal in time."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.norm = layers.RMSNorm(dim, rngs=rngs)
    shape, axes = (3, 3, dim, dim), (None, None, "embed", None)
    self.kernel = layers.param(rngs, layers.fan_in, shape, axes)
    self.bias = layers.param(rngs, layers.zeros, (dim,), (None,))
    self.time = layers.Linear(2 * dim, dim, init=layers.zeros, rngs=rngs)

  def __call__(self, x_BGhwC: jax.Array) -> jax.Array:
    b, g, h, w, c = x_BGhwC.shape
    y = self.norm(x_BGhwC).reshape(b * g, h, w, c)
    y = jax.lax.conv_general_dilated(
      y, self.kernel[...], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y_BGhwC = jax.nn.silu(y + self.bias[...]).reshape(b, g, h, w, c)
    before = jnp.pad(y_BGhwC[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
    return x_BGhwC + self.time(jnp.concatenate((before, y_BGhwC), -1))


class Level(nnx.Module):
  """Blocks of one width, one after another."""

  def __init__(self, dim: int, num_blocks: int, *, rngs: nnx.Rngs):
    self.blocks = nnx.List([Block(dim, rngs=rngs) for _ in range(num_blocks)])

  def __call__(self, x_BGhwC: jax.Array) -> jax.Array:
    for block in self.blocks:
      x_BGhwC = block(x_BGhwC)
    return x_BGhwC


class Autoencoder(nnx.Module):
  """encode: frames -> normalized latents; decode: the way back."""

  def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
    pt, ph, pw = config.patch
    pixels, (outer, inner) = 3 * pt * ph * pw, config.widths
    latent = config.latent_channels
    linear = functools.partial(layers.Linear, rngs=rngs)

    self.encode_in = linear(pixels, outer, axes=(None, "embed"))
    self.encode_outer = Level(outer, config.encoder_blocks[0], rngs=rngs)
    self.encode_down = linear(4 * outer, inner)
    self.encode_inner = Level(inner, config.encoder_blocks[1], rngs=rngs)
    self.encode_norm = layers.RMSNorm(inner, rngs=rngs)
    self.encode_out = linear(inner, 2 * latent)

    self.decode_in = linear(latent, inner, axes=(None, "embed"))
    self.decode_inner = Level(inner, config.decoder_blocks[1], rngs=rngs)
    self.decode_up = linear(inner, 4 * outer)
    self.decode_outer = Level(outer, config.decoder_blocks[0], rngs=rngs)
    self.decode_norm = layers.RMSNorm(outer, rngs=rngs)
    self.decode_out = linear(outer, pixels)

    self.latent_mean = Statistics(jnp.zeros(latent))
    self.latent_square = Statistics(jnp.ones(latent))
    self.config = config

  def posterior(self, x_BTHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance of the raw latents, each [B, G, h, w, Z]."""
    pt, ph, pw = self.config.patch
    x = self.encode_in(fold(fold_time(x_BTHWC, pt), ph, pw))
    x = self.encode_outer(x)
    x = self.encode_inner(self.encode_down(fold(x, 2, 2)))
    mean, log_variance = jnp.split(self.encode_out(self.encode_norm(x)), 2, -1)
    return mean, jnp.clip(log_variance, -20.0, 10.0)

  def reconstruct(self, z_BGhwZ: jax.Array) -> jax.Array:
    """Raw latents -> frames [B, T, H, W, 3]."""
    pt, ph, pw = self.config.patch
    x = self.decode_inner(self.decode_in(z_BGhwZ))
    x = self.decode_outer(unfold(self.decode_up(x), 2, 2))
    return unfold_time(unfold(self.decode_out(self.decode_norm(x)), ph, pw), pt)

  def encode(self, x_BTHWC: jax.Array) -> jax.Array:
    """Frames -> normalized latents (the posterior's mean)."""
    mean, std = self._moments()
    return (self.posterior(x_BTHWC)[0] - mean) / std

  def decode(self, z_BGhwZ: jax.Array) -> jax.Array:
    """Normalized latents -> frames, clipped to [-1, 1]."""
    mean, std = self._moments()
    return jnp.clip(self.reconstruct(z_BGhwZ * std + mean), -1.0, 1.0)

  def update_statistics(self, z_BGhwZ: jax.Array) -> None:
    """Moves the running moments of the raw latents towards this batch's."""
    decay, axes = self.config.statistics_decay, (0, 1, 2, 3)
    z = jax.lax.stop_gradient(z_BGhwZ)
    pairs = (self.latent_mean, z), (self.latent_square, jnp.square(z))
    for running, value in pairs:
      running[...] = decay * running[...] + (1 - decay) * jnp.mean(value, axes)

  def _moments(self) -> tuple[jax.Array, jax.Array]:
    mean = self.latent_mean[...]
    variance = self.latent_square[...] - jnp.square(mean)
    return mean, jnp.sqrt(jnp.maximum(variance, 1e-6))
