"""The default text encoder: a small transformer over packed captions, trained along.

Needs no download. Captions of one row are packed, so attention stays within segments
and positions restart with each caption.

Shapes: B rows, M text tokens, S segments, D width.
Used by: models/text_to_video.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax.configlib import config
from sora_jax.nn import attention, layers, modulation, stack
from sora_jax.text import tokenizers

_embedding = nnx.initializers.normal(0.02)


@config
class TextEncoderConfig:
  """Sizes of the default encoder; the data must use the same tokenizer."""

  tokenizer: tokenizers.WordTokenizer | tokenizers.ByteTokenizer
  width: int = 128
  depth: int = 2
  num_heads: int = 4
  activation: str = "gelu_tanh"

  def make(self, rngs: nnx.Rngs) -> "TextEncoder":
    return TextEncoder(self, rngs=rngs)


class TextBlock(nnx.Module):
  """Pre-norm transformer block: attention, then MLP."""

  def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
    self.attention_norm = layers.LayerNorm(config.width, rngs=rngs)
    self.attention = attention.Attention(config.width, config.num_heads, rngs=rngs)
    self.mlp_norm = layers.LayerNorm(config.width, rngs=rngs)
    self.mlp = layers.Mlp(
      config.width, 4 * config.width, activation=config.activation, rngs=rngs
    )

  def __call__(self, x_BMD: jax.Array, segments_BM: jax.Array) -> jax.Array:
    y_BMD = self.attention_norm(x_BMD)
    x_BMD = x_BMD + self.attention(y_BMD, y_BMD, segments_BM, segments_BM)
    return x_BMD + self.mlp(self.mlp_norm(x_BMD))


class TextEncoder(nnx.Module):
  """Token ids -> contextual embeddings; a dropped caption -> a learned null one."""

  def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs):
    tokenizer, width = config.tokenizer, config.width
    self.words = layers.param(
      rngs, _embedding, (tokenizer.vocab_size, width), ("vocab", None)
    )
    self.places = layers.param(
      rngs, _embedding, (tokenizer.max_tokens, width), ("small", None)
    )
    self.null = layers.param(rngs, _embedding, (width,), (None,))
    self.blocks = stack.Stack(
      lambda rngs: TextBlock(config, rngs=rngs), config.depth, rngs=rngs
    )
    self.norm = layers.LayerNorm(width, rngs=rngs)

  def __call__(
    self, ids_BM: jax.Array, segments_BM: jax.Array,
    positions_BM: jax.Array, dropped_BS: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """[B, M, D]; every token of a dropped caption becomes the same null embedding."""
    x_BMD = self.words[...][ids_BM] + self.places[...][positions_BM]
    x_BMD = self.norm(self.blocks(x_BMD, segments_BM))
    return drop(x_BMD, self.null[...], segments_BM, dropped_BS)


def drop(
  x_BMD: jax.Array, null_D: jax.Array, segments_BM: jax.Array, dropped_BS: jax.Array
) -> jax.Array:
  """The embeddings, with the null one for every token of a dropped caption."""
  index_BM = jnp.maximum(segments_BM - 1, 0)
  dropped_BM1 = modulation.gather(dropped_BS[..., None].astype(x_BMD.dtype), index_BM)
  return jnp.where(dropped_BM1 > 0, null_D.astype(x_BMD.dtype), x_BMD)
