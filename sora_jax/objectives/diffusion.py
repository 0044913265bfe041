"""Training a text-to-video model on packed latents: rectified flow, a t per token.

  loss = mean over generated tokens of |model(x_t, t, text) - (eps - x_0)|^2 / P

Every clip draws its own t; known tokens stay clean at t = 0 and carry no loss; captions
are dropped at random for classifier-free guidance (arXiv:2207.12598). All draws are
keyed by (step, row), so they do not depend on how rows are spread over devices.

Batch: api.PackedTokens.
Shapes: B rows, L tokens, P values a patch, S segments.
Used by: configs/, through training/loop.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax import api, sharding
from sora_jax.configlib import config
from sora_jax.diffusion import process
from sora_jax.models import text_to_video
from sora_jax.nn import modulation
from sora_jax.objectives import known_masks


@config
class VideoDiffusion:
  """What is trained, at which noise levels, on which tasks."""

  model: text_to_video.TextToVideoConfig
  times: process.LogitNormal | process.Uniform
  shift: process.Shift
  masks: known_masks.KnownMasks
  text_dropout: float = 0.1
  # An expert's share of the noise levels (eDiff-I, arXiv:2211.01324; Wan 2.2 has two).
  noise_range: tuple[float, float] = (0.0, 1.0)
  compute_dtype: str = "float32"  # "bfloat16" on TPUs and GPUs

  def make(self, rngs: nnx.Rngs) -> nnx.Module:
    """Raises ValueError where the noise levels are no part of [0, 1]."""
    low, high = self.noise_range
    if not 0.0 <= low < high <= 1.0:
      raise ValueError(f"noise_range={self.noise_range} must lie within (0, 1), ascending")
    return self.model.make(rngs)

  def loss(
    self, model: text_to_video.TextToVideo, batch: api.PackedTokens, key: jax.Array
  ) -> tuple[jax.Array, api.Metrics]:
    """Scalar loss and metrics; see the module's equation.

    Raises:
      ValueError: the batch's tokens are not those of the model's patches.
    """
    expected = self.model.backbone.token_dim
    if batch.tokens.shape[-1] != expected:
      raise ValueError(
        f"the data has {batch.tokens.shape[-1]} values per token and the model expects "
        f"{expected}: data.patch and backbone.patch, and the codec's channels and "
        "backbone.latent_channels, must agree"
      )
    batch, t_BS, eps_BLP = self.draw(batch, key)
    return self.velocity_loss(model, batch, t_BS, eps_BLP)

  def draw(
    self, batch: api.PackedTokens, key: jax.Array
  ) -> tuple[api.PackedTokens, jax.Array, jax.Array]:
    """The batch with its known and dropped sets, the times [B, S], the noise."""
    rows = jnp.arange(batch.segment_ids.shape[0])
    keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    time_key, noise_key, text_key, mask_key = jax.vmap(jax.random.split, (0, None), 1)(
      keys_B, 4
    )
    num_segments = batch.sizes.shape[1]
    t_BS = jax.vmap(lambda k: self.times.sample(k, (num_segments,)))(time_key)
    t_BS = self.shift(t_BS, jnp.prod(batch.sizes, -1))
    low, high = self.noise_range
    t_BS = low + (high - low) * t_BS
    eps_BLP = jax.vmap(lambda k: jax.random.normal(k, batch.tokens.shape[1:]))(noise_key)
    dropped_BS = jax.vmap(
      lambda k: jax.random.bernoulli(k, self.text_dropout, (num_segments,))
    )(text_key)
    batch = batch.replace(
      known=batch.known | self.masks.sample(mask_key, batch),
      text_dropped=batch.text_dropped | dropped_BS,
    )
    return batch, t_BS, eps_BLP

  def velocity_loss(
    self, model: text_to_video.TextToVideo, batch: api.PackedTokens,
    t_BS: jax.Array, eps_BLP: jax.Array,
  ) -> tuple[jax.Array, api.Metrics]:  # fmt: skip
    """The loss for given times and noise; sums over tokens, so packing is exact."""
    x0_BLP = jnp.asarray(batch.tokens, jnp.float32)
    num_segments = t_BS.shape[1]
    level_BL = modulation.level_index(batch.segment_ids, batch.known, num_segments)
    t_BL1 = modulation.gather(modulation.levels(t_BS)[..., None], level_BL)
    xt_BLP = process.corrupt(x0_BLP, eps_BLP, t_BL1).astype(self.compute_dtype)
    xt_BLP = sharding.constrain(xt_BLP, "batch", "length", None)

    prediction_BLP = model(xt_BLP, t_BS, batch)
    error_BLP = prediction_BLP - process.velocity(x0_BLP, eps_BLP)
    real_BL = batch.segment_ids > 0
    weight_BL = (real_BL & ~batch.known).astype(jnp.float32)
    error_BL = jnp.mean(jnp.square(error_BLP), -1)
    loss = jnp.sum(weight_BL * error_BL) / jnp.maximum(jnp.sum(weight_BL), 1.0)
    metrics = {
      "loss_weight": jnp.sum(weight_BL),
      "useful_tokens": jnp.sum(real_BL.astype(jnp.float32)),
      "model_flops": 3 * self.model.backbone.forward_flops(
        _per_clip(batch.segment_ids, num_segments),
        _per_clip(batch.text_segment_ids, num_segments),
      ),
      "packing_efficiency": jnp.mean(real_BL.astype(jnp.float32)),
      "clips": jnp.sum((batch.clip_ids >= 0).astype(jnp.float32)),
    }
    return loss, metrics


def _per_clip(segments_BL: jax.Array, num_segments: int) -> jax.Array:
  """How many tokens each segment has, int32 [B, S]."""
  numbers = jnp.arange(1, num_segments + 1)
  return jnp.sum(segments_BL[:, None] == numbers[:, None], -1)
