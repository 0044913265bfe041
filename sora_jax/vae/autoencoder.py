"""What every video compression network is: frames -> normalized latents, and back.

  z = (bottleneck(to_bottleneck(x)) - mean) / std        encode
  x = to_frames(z std + mean)                            decode

Latents have zero mean and unit deviation per channel; the running statistics for that
are part of the model. Time is causal: an image is a one-frame video, a prefix of the
frames gives a prefix of the latents, and 1 + ct k frames give 1 + k latents. A `Stream`
carries a video through in chunks.

Shapes: B videos, T frames, H, W pixels; t, h, w latents; Z latent channels.
Subclasses: factorized.py, wan.py. Used by: objectives/autoencoder.py, streaming.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax.configlib import config
from sora_jax.vae import bottlenecks
from sora_jax.vae.causal import Stream


@config
class AutoencoderConfig:
  """What the networks have in common; `make` builds one."""

  bottleneck: bottlenecks.Kl | bottlenecks.Vq | bottlenecks.Fsq
  statistics_decay: float = 0.99

  @property
  def compression(self) -> tuple[int, int, int]:
    """Frames, pixels and pixels per latent along t, h, w."""
    raise NotImplementedError

  def make(self, rngs: nnx.Rngs) -> "Autoencoder":
    raise NotImplementedError

  @property
  def latent_channels(self) -> int:
    return self.bottleneck.channels

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


class Autoencoder(nnx.Module):
  """The base of the family; see the module's equations."""

  def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
    self.bottleneck = config.bottleneck.make(rngs)
    self.latent_mean = bottlenecks.Statistics(jnp.zeros(config.latent_channels))
    self.latent_square = bottlenecks.Statistics(jnp.ones(config.latent_channels))
    self.config = config

  def to_bottleneck(self, x_BTHWC: jax.Array, stream: Stream) -> jax.Array:
    """Frames -> what the bottleneck reads, [B, t, h, w, num_inputs]."""
    raise NotImplementedError

  def to_frames(self, z_BthwZ: jax.Array, stream: Stream) -> jax.Array:
    """Raw latents -> frames."""
    raise NotImplementedError

  def encode(
    self, x_BTHWC: jax.Array, stream: Stream | None = None, key: jax.Array | None = None
  ) -> jax.Array:
    """Frames -> normalized latents: the posterior's mean, or with a key a sample."""
    h = self.to_bottleneck(x_BTHWC, stream or Stream()).astype(jnp.float32)
    mean, std = self.latent_moments()
    return (self.bottleneck.latents(h, key) - mean) / std

  def decode(
    self, z_BthwZ: jax.Array, stream: Stream | None = None, *, dtype=jnp.float32
  ) -> jax.Array:
    """Normalized latents -> frames, clipped to [-1, 1]; computes in `dtype`."""
    mean, std = self.latent_moments()
    z = (z_BthwZ * std + mean).astype(dtype)
    return jnp.clip(self.to_frames(z, stream or Stream()), -1.0, 1.0)

  def update_statistics(self, z_BthwZ: jax.Array) -> None:
    """Moves the running moments of the raw latents towards this batch's."""
    decay, axes = self.config.statistics_decay, (0, 1, 2, 3)
    z = jax.lax.stop_gradient(z_BthwZ)
    pairs = (self.latent_mean, z), (self.latent_square, jnp.square(z))
    for running, value in pairs:
      running[...] = decay * running[...] + (1 - decay) * jnp.mean(value, axes)

  def latent_moments(self) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation per channel of the raw latents."""
    mean = self.latent_mean[...]
    variance = self.latent_square[...] - jnp.square(mean)
    return mean, jnp.sqrt(jnp.maximum(variance, 1e-6))
