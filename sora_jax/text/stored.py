"""Captions that were embedded beforehand, by a text encoder too large to run along.

The data brings the embeddings (`encode_latents --text_encoder`); what is learned here is
only the one that stands for a dropped caption. All tokens of a dropped caption are that
one, and attention to many equal tokens is attention to one, so its length is nothing
that the model could see.

Shapes: B rows, M text tokens, S segments, D width.
Used by: models/text_to_video.py. See: pretrained.py, which makes the embeddings.
"""

import jax
from flax import nnx

from sora_jax.configlib import config
from sora_jax.nn import layers
from sora_jax.text import encoder, tokenizers


@config
class StoredTextConfig:
  """What the data's embeddings are like."""

  tokenizer: tokenizers.StoredEmbeddings  # the data's
  width: int = 4096  # D: 4096 for UMT5-XXL and T5-XXL

  def make(self, rngs: nnx.Rngs) -> "StoredText":
    return StoredText(self, rngs=rngs)


class StoredText(nnx.Module):
  """Embeddings as they come; a dropped caption -> a learned null one."""

  def __init__(self, config: StoredTextConfig, *, rngs: nnx.Rngs):
    self.null = layers.param(rngs, layers.zeros, (config.width,), (None,))
    self.width = config.width

  def __call__(
    self, embeddings_BMD: jax.Array, segments_BM: jax.Array,
    positions_BM: jax.Array, dropped_BS: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """[B, M, D].

    Raises:
      ValueError: the data brings token ids, or embeddings of another width.
    """
    del positions_BM
    found = embeddings_BMD.shape[2:]
    if found != (self.width,):
      raise ValueError(
        f"the model's text is embeddings of {self.width} values, and the data brings "
        f"{'token ids' if not found else f'ones of {found[0]}'}: data.tokenizer and "
        "model.text.tokenizer must be the same, and model.text.width the encoder's"
      )
    return encoder.drop(embeddings_BMD, self.null[...], segments_BM, dropped_BS)
