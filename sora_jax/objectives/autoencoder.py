"""Training the video compression network: reconstruction plus a small KL (the VAE).

  loss = mse |x - x'|^2 + l1 |x - x'| + kl KL(q(z|x) || N(0, 1)),  z ~ q(z|x)

Batch: {"video": uint8 [B, T, H, W, 3]}.
Used by: configs/demo.py, through training/loop.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax import api
from sora_jax.configlib import config
from sora_jax.vae import autoencoder


def to_unit_range(video_uint8: jax.Array) -> jax.Array:
  """uint8 frames -> float32 in [-1, 1]."""
  return video_uint8.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(video: jax.Array) -> jax.Array:
  """Frames in [-1, 1] -> uint8, rounded."""
  return jnp.clip(jnp.round((video + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


@config
class AutoencoderObjective:
  """The weights of the loss's parts, per pixel value and per latent value."""

  model: autoencoder.AutoencoderConfig
  mse: float = 1.0
  l1: float = 0.05
  kl: float = 5e-5

  def make(self, rngs: nnx.Rngs) -> nnx.Module:
    return self.model.make(rngs)

  def loss(
    self, model: autoencoder.Autoencoder, batch: api.PyTree, key: jax.Array
  ) -> tuple[jax.Array, api.Metrics]:
    """See the module's equation; `psnr_db` is that of the sampled reconstruction."""
    x = to_unit_range(batch["video"])
    mean, log_variance = model.posterior(x)
    # One key per row, so that the noise does not depend on how rows are sharded.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(x.shape[0]))
    eps = jax.vmap(lambda k: jax.random.normal(k, mean.shape[1:]))(keys)
    error = model.reconstruct(mean + jnp.exp(0.5 * log_variance) * eps) - x
    model.update_statistics(mean)

    mse, l1 = jnp.mean(jnp.square(error)), jnp.mean(jnp.abs(error))
    variance = jnp.exp(log_variance)
    kl = 0.5 * jnp.mean(jnp.square(mean) + variance - 1.0 - log_variance)
    loss = self.mse * mse + self.l1 * l1 + self.kl * kl
    psnr_db = 10.0 * jnp.log10(4.0 / jnp.maximum(mse, 1e-10))
    return loss, {"mse": mse, "l1": l1, "kl": kl, "psnr_db": psnr_db}
