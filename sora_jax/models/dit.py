"""THE denoiser: a Wan-shaped diffusion transformer on packed rows.

Each block, for a token whose (segment, known) pair has the time modulation e (six
values per channel, plus the block's own bias):

  shift1, scale1, gate1, shift2, scale2, gate2 = e + bias
  x = x + gate1 * SelfAttention(LN(x) * (1 + scale1) + shift1)   3-D rotary, QK-RMSNorm
  x = x + CrossAttention(LN'(x), text)                           within segments
  x = x + gate2 * MLP(LN(x) * (1 + scale2) + shift2)

DiT is arXiv:2212.09748; the block is that of Wan 2.x (arXiv:2503.20314), whose 2.2-5B
model already takes a noise level per token.

Two options make it Wan 2.1's image-to-video model: further channels of every latent
(which frames are given, and they themselves), and embeddings of the first frame that
cross-attention sees beside the text.

Shapes: B rows, L tokens, P values a patch, S segments, M text tokens, I image tokens,
D width, N heads, H head dim.
Used by: models/text_to_video.py. Next: nn/attention.py, nn/modulation.py.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax import api, sharding
from sora_jax.configlib import config
from sora_jax.nn import attention as attention_lib
from sora_jax.nn import layers, modulation, positions, stack


@config
class DiTConfig:
  """Sizes of a DiT. `DIT_SIZES` in configs/common.py lists the usual ones."""

  patch: tuple[int, int, int] = (1, 2, 2)  # latents per token along t, h, w
  latent_channels: int = 16
  width: int = 1536
  depth: int = 30
  num_heads: int = 12
  mlp_dim: int = 8960
  text_dim: int = 4096  # width of the text embeddings
  freq_dim: int = 256  # sinusoidal features of the noise level
  activation: str = "gelu_tanh"
  condition_channels: int = 0  # of each latent, beside the noisy ones
  image_dim: int = 0  # > 0: width of the image embeddings that are attended to
  absolute_frequencies: int = 0  # > 0 adds NaViT's absolute positions to the rotary ones
  attention: attention_lib.AttentionConfig = dataclasses.field(
    default_factory=attention_lib.AttentionConfig
  )
  scan: bool = True  # scan over layers, or unroll them
  remat: str = "none"  # see nn/stack.py

  @property
  def token_dim(self) -> int:
    """P: values per token."""
    return math.prod(self.patch) * self.latent_channels

  @property
  def condition_dim(self) -> int:
    """Values per token of `PackedTokens.condition`."""
    return math.prod(self.patch) * self.condition_channels

  def make(self, rngs: nnx.Rngs) -> "DiT":
    return DiT(self, rngs=rngs)

  def forward_flops(self, tokens: jax.Array, text_tokens: jax.Array) -> jax.Array:
    """FLOPs of clips of so many tokens and text tokens ([...], zeros where none is).

    Matrix products only, and none for padding: what MFU is reckoned with. Image
    embeddings, a few hundred a clip, are left out.
    """
    d = float(self.width)  # no int32 holds what comes out for large models
    s, m = tokens.astype(jnp.float32), text_tokens.astype(jnp.float32)
    block = 6 * d * d + 2 * d * self.mlp_dim
    per_token = 2 * (self.depth * block + d * (2 * self.token_dim + self.condition_dim))
    per_text_token = 2 * (self.depth * 2 * d * d + d * self.text_dim + d * d)
    attention = 4 * d * self.depth * s * (s + m)
    return jnp.sum(per_token * s + per_text_token * m + attention)


class DiTBlock(nnx.Module):
  """One block; see the equations above."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
    width = config.width
    heads = {"num_heads": config.num_heads, "config": config.attention, "rngs": rngs}
    self.modulation = layers.param(rngs, layers.zeros, (6 * width,), (None,))
    self.self_attention = attention_lib.Attention(width, **heads)
    self.cross_norm = layers.LayerNorm(width, rngs=rngs)
    cross = attention_lib.ImageAttention if config.image_dim else attention_lib.Attention
    self.cross_attention = cross(width, **heads)
    self.mlp = layers.Mlp(
      width, config.mlp_dim, activation=config.activation, rngs=rngs
    )

  def __call__(
    self, x_BLD: jax.Array, table_BSK: jax.Array, level_BL: jax.Array,
    text_BMD: jax.Array, segments_BL: jax.Array, text_segments_BM: jax.Array,
    rotary: tuple[jax.Array, jax.Array], *image: jax.Array,
  ) -> jax.Array:  # fmt: skip
    dtype = x_BLD.dtype
    # Gathered one by one, in the compute dtype, where they are used: all six per token
    # at once would be the largest array of the whole step.
    shift1, scale1, gate1, shift2, scale2, gate2 = (
      functools.partial(modulation.gather, value_BSD.astype(dtype), level_BL)
      for value_BSD in jnp.split(table_BSK + self.modulation[...], 6, -1)
    )

    y_BLD = (layers.layer_norm(x_BLD) * (1 + scale1()) + shift1()).astype(dtype)
    y_BLD = self.self_attention(y_BLD, y_BLD, segments_BL, segments_BL, rotary)
    x_BLD = x_BLD + (gate1() * y_BLD).astype(dtype)

    y_BLD = self.cross_norm(x_BLD)
    x_BLD = x_BLD + self.cross_attention(
      y_BLD, text_BMD, segments_BL, text_segments_BM, None, *image
    )

    y_BLD = (layers.layer_norm(x_BLD) * (1 + scale2()) + shift2()).astype(dtype)
    x_BLD = x_BLD + (gate2() * self.mlp(y_BLD)).astype(dtype)
    return sharding.constrain(x_BLD, "batch", "length", None)


class ImageContext(nnx.Module):
  """Image embeddings [..., I, image_dim] -> what cross-attention sees, [..., I, D]."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
    dim, width = config.image_dim, config.width
    self.norm_in = layers.LayerNorm(dim, rngs=rngs, eps=1e-5)
    self.up = layers.Linear(dim, dim, axes=(None, "embed"), rngs=rngs)
    self.down = layers.Linear(dim, width, axes=(None, "embed"), rngs=rngs)
    self.norm_out = layers.LayerNorm(width, rngs=rngs, eps=1e-5)

  def __call__(self, image_BID: jax.Array) -> jax.Array:
    hidden = self.up(self.norm_in(image_BID))
    return self.norm_out(self.down(layers.ACTIVATIONS["gelu"](hidden)))


class DiT(nnx.Module):
  """Noisy tokens, their noise levels and text embeddings -> velocity of each token."""

  def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
    width = config.width
    values = config.token_dim + config.condition_dim
    self.embed = layers.Linear(values, width, axes=(None, "embed"), rngs=rngs)
    if config.absolute_frequencies:
      num_features = 3 * (2 * config.absolute_frequencies + 2)
      self.place = layers.Linear(num_features, width, axes=(None, "embed"), rngs=rngs)
    self.time = modulation.TimeEmbedding(width, config.freq_dim, rngs=rngs)
    self.text_in = layers.Linear(config.text_dim, width, axes=(None, "embed"), rngs=rngs)
    self.text_out = layers.Linear(width, width, rngs=rngs)
    if config.image_dim:
      self.image = ImageContext(config, rngs=rngs)
    self.blocks = stack.Stack(
      lambda rngs: DiTBlock(config, rngs=rngs), config.depth,
      scan=config.scan, remat=config.remat, rngs=rngs,
    )  # fmt: skip
    self.head_modulation = layers.param(rngs, layers.zeros, (2, width), (None, None))
    self.head = layers.Linear(width, config.token_dim, init=layers.zeros, rngs=rngs)
    self.config = config

  def __call__(
    self, tokens_BLP: jax.Array, t_BS: jax.Array, text_BMD: jax.Array,
    batch: api.PackedTokens,
  ) -> jax.Array:  # fmt: skip
    """The velocity of each token, float32 [B, L, P].

    Args:
      tokens_BLP: the noisy tokens; known ones are clean. Sets the compute dtype.
      t_BS: the noise level of each clip, 0 (data) to 1 (noise).
      text_BMD: caption embeddings, packed like `batch.text`.
      batch: segments, positions, sizes and conditions; its tokens are not read.

    Raises:
      ValueError: the batch lacks a condition that the model takes, or has another.
    """
    num_segments, dtype = t_BS.shape[1], tokens_BLP.dtype
    segment_BL = batch.segment_ids
    level_BL = modulation.level_index(segment_BL, batch.known, num_segments)
    time_BSD, table_BSK = self.time(modulation.levels(t_BS))
    rotary = positions.rotary_table(
      batch.positions, self.config.width // self.config.num_heads
    )

    x_BLD = self.embed(self._with_condition(tokens_BLP, batch))
    if self.config.absolute_frequencies:
      x_BLD = x_BLD + self._places(batch).astype(dtype)
    text_BMD = layers.ACTIVATIONS["gelu_tanh"](self.text_in(text_BMD.astype(dtype)))
    text_BMD = self.text_out(text_BMD)
    x_BLD = self.blocks(
      x_BLD, table_BSK, level_BL, text_BMD, segment_BL, batch.text_segment_ids, rotary,
      *self._image(batch, dtype),
    )

    shift_BSD, scale_BSD = (time_BSD + bias for bias in self.head_modulation[...])
    shift_BLD = modulation.gather(shift_BSD, level_BL)
    scale_BLD = modulation.gather(scale_BSD, level_BL)
    x_BLD = layers.layer_norm(x_BLD) * (1 + scale_BLD) + shift_BLD
    return self.head(x_BLD.astype(dtype)).astype(jnp.float32)

  def _with_condition(self, tokens_BLP: jax.Array, batch: api.PackedTokens) -> jax.Array:
    dim = self.config.condition_dim
    found = _width(batch.condition)
    if found != dim:
      raise ValueError(
        f"the denoiser takes {dim} conditioning values per token "
        f"(backbone.condition_channels={self.config.condition_channels}), and the batch "
        f"has {found}"
      )
    if not dim:
      return tokens_BLP
    return jnp.concatenate((tokens_BLP, batch.condition.astype(tokens_BLP.dtype)), -1)

  def _image(self, batch: api.PackedTokens, dtype) -> tuple[jax.Array, ...]:
    dim = self.config.image_dim
    found = _width(batch.image)
    if found != dim:
      raise ValueError(
        f"the denoiser takes image embeddings of {dim} values (backbone.image_dim), and "
        f"the batch has {found}"
      )
    if not dim:
      return ()
    return self.image(batch.image.astype(dtype)), batch.image_segment_ids

  def _places(self, batch: api.PackedTokens) -> jax.Array:
    index_BL = jnp.maximum(batch.segment_ids - 1, 0)
    sizes_BL3 = modulation.gather(jnp.asarray(batch.sizes, jnp.float32), index_BL)
    return self.place(
      positions.absolute_features(
        batch.positions, sizes_BL3, self.config.absolute_frequencies
      )
    )


def _width(x: jax.Array | None) -> int:
  return 0 if x is None else x.shape[-1]
