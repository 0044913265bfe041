"""Training the video compression network.

  loss = mse |x - x'|^2 + l1 |x - x'| + features_weight d(x, x') + bottleneck's own
         + adversarial -D(x')                    x' = decode(sample of q(z|x))
         + hinge(D(x), D(sg x'))                 which trains D alone

Both players take their step at once, in the one training loop: the generator's term sees
D's parameters as constants, and D's term sees x' as one.

Batch: {"video": uint8 [B, T, H, W, 3]}.
Used by: configs/demo.py and configs/vae.py, through training/loop.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax import api
from sora_jax.configlib import config
from sora_jax.vae import autoencoder, bottlenecks, discriminator, perceptual
from sora_jax.vae.causal import Stream


@config
class Adversarial:
  """The PatchGAN's part, from step `start` on."""

  model: discriminator.PatchGanConfig
  weight: float = 0.05
  start: int = 0


@config
class AutoencoderObjective:
  """The weights of the loss's parts, per pixel value."""

  model: autoencoder.AutoencoderConfig
  mse: float = 1.0
  l1: float = 0.05
  features: perceptual.GradientPyramid | None = None  # what d compares
  features_weight: float = 0.0
  adversarial: Adversarial | None = None

  def make(self, rngs: nnx.Rngs) -> "Players":
    """Raises ValueError where a weight has nothing that it weighs."""
    if bool(self.features_weight) != (self.features is not None):
      raise ValueError("features and features_weight go together: one is set, one not")
    return Players(self, rngs=rngs)

  def loss(
    self, model: "Players", batch: api.PyTree, key: jax.Array
  ) -> tuple[jax.Array, api.Metrics]:
    """See the module's equation; `psnr_db` is that of the sampled reconstruction."""
    x = batch["video"].astype(jnp.float32) / 127.5 - 1.0
    codec = model.codec
    h = codec.to_bottleneck(x, Stream())
    z, loss, metrics = codec.bottleneck(h, key)
    copy = codec.to_frames(z, Stream())
    codec.update_statistics(codec.bottleneck.latents(h))

    mse, l1 = jnp.mean(jnp.square(copy - x)), jnp.mean(jnp.abs(copy - x))
    psnr_db = 10.0 * jnp.log10(4.0 / jnp.maximum(mse, 1e-10))
    metrics = {"mse": mse, "l1": l1, "psnr_db": psnr_db, **metrics}
    loss = loss + self.mse * mse + self.l1 * l1
    if self.features is not None:
      metrics["perceptual"] = perceptual.distance(self.features, copy, x)
      loss = loss + self.features_weight * metrics["perceptual"]
    if self.adversarial is not None:
      part, more = _adversarial(self.adversarial, model, x, copy)
      loss, metrics = loss + part, {**metrics, **more}
    return loss, metrics


class Players(nnx.Module):
  """The codec, and what it is trained against."""

  def __init__(self, config: AutoencoderObjective, *, rngs: nnx.Rngs):
    self.codec = config.model.make(rngs)
    if config.adversarial is not None:
      self.discriminator = config.adversarial.model.make(rngs)
      self.steps = bottlenecks.Statistics(jnp.zeros((), jnp.int32))


def _adversarial(
  config: Adversarial, model: Players, x: jax.Array, copy: jax.Array
) -> tuple[jax.Array, api.Metrics]:
  structure, state = nnx.split(model.discriminator)
  constant = nnx.merge(structure, jax.lax.stop_gradient(state))
  fooled = -jnp.mean(constant(copy))
  told_apart = discriminator.hinge(
    model.discriminator(x), model.discriminator(jax.lax.stop_gradient(copy))
  )
  begun = model.steps[...] >= config.start
  model.steps[...] = model.steps[...] + 1
  loss = jnp.where(begun, config.weight * fooled + told_apart, 0.0)
  return loss, {"generator": fooled, "discriminator": told_apart}
