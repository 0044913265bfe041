"""A denoiser and the text encoder that is trained along with it, as one module.

Used by: objectives/diffusion.py, generation/generator.py.
"""

import jax
from flax import nnx

from sora_jax import api
from sora_jax.configlib import config
from sora_jax.models import dit
from sora_jax.text import encoder, stored


@config
class TextToVideoConfig:
  """Which denoiser, and which text encoder: trained along, or run beforehand."""

  backbone: dit.DiTConfig
  text: encoder.TextEncoderConfig | stored.StoredTextConfig

  def make(self, rngs: nnx.Rngs) -> "TextToVideo":
    """Raises ValueError where the two widths disagree."""
    if self.text.width != self.backbone.text_dim:
      raise ValueError(
        f"backbone.text_dim ({self.backbone.text_dim}) must equal text.width "
        f"({self.text.width})"
      )
    return TextToVideo(self, rngs=rngs)


class TextToVideo(nnx.Module):
  """(noisy tokens, t, packed batch) -> velocity."""

  def __init__(self, config: TextToVideoConfig, *, rngs: nnx.Rngs):
    self.backbone = config.backbone.make(rngs)
    self.text = config.text.make(rngs)

  def encode_text(self, batch: api.PackedTokens) -> jax.Array:
    """Caption embeddings [B, M, D] of the batch's text."""
    return self.text(
      batch.text, batch.text_segment_ids, batch.text_positions, batch.text_dropped
    )

  def __call__(
    self, tokens_BLP: jax.Array, t_BS: jax.Array, batch: api.PackedTokens
  ) -> jax.Array:
    return self.backbone(tokens_BLP, t_BS, self.encode_text(batch), batch)
