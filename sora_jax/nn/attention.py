"""Attention between tokens of one segment: the module, and which kernel runs it.

`reference` defines it: a masked float32 softmax. A query sees exactly the keys of its
own segment; queries of padding (segment 0), and queries whose segment has no key, give
zeros. Everything faster is equal to it, values and gradients.

  kernel      work                             where
  reference   L^2                              anywhere; the best where rows are short
  tpu         sum of s^2, for clips of s tokens  TPUs (flash.py)
  gpu         the same                         GPUs, from Ampere on
  loops       the same                         CPUs, in plain XLA
  auto        tpu on TPUs, gpu on GPUs; on CPUs loops, and reference for short rows

Rows are spread over the devices of the context axis in one of two ways: `ulysses` swaps
length for heads around self-attention (all-to-all, arXiv:2309.14509), `ring` keeps the
queries and passes keys and values around (arXiv:2310.01889). Queries of text stay where
they are, and see all of it.

Shapes: B rows, L queries, K keys, N heads, H head dim, D = N * H.
Used by: models/dit.py, text/encoder.py. Next: flash.py, ring.py.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax import sharding
from sora_jax.configlib import config
from sora_jax.nn import flash, layers, positions, ring

_SHORT = 256  # rows up to here are faster at once than block by block, on a CPU
KERNELS = ("auto", "reference", *flash.KERNELS)
CONTEXTS = ("ulysses", "ring")


@config
class AttentionConfig:
  """How attention is computed; nothing here changes what it computes."""

  kernel: str = "auto"
  block: int = 256  # tokens of a block of queries, and of keys
  context: str = "ulysses"

  def __post_init__(self) -> None:
    if self.kernel not in KERNELS:
      raise ValueError(f"attention.kernel={self.kernel!r} must be one of {KERNELS}")
    if self.context not in CONTEXTS:
      raise ValueError(f"attention.context={self.context!r} must be one of {CONTEXTS}")
    if self.block < 128 or self.block % 128:
      raise ValueError(f"attention.block={self.block} must be a multiple of 128")

  def kernel_for(self, num_keys: int) -> str:
    """The kernel for rows of this many keys, where this process runs."""
    if self.kernel != "auto":
      return self.kernel
    if (backend := jax.default_backend()) in ("tpu", "gpu"):
      return backend
    return "reference" if num_keys <= _SHORT else "loops"


def attention(
  q_BLNH: jax.Array, k_BKNH: jax.Array, v_BKNH: jax.Array,
  q_segments_BL: jax.Array, kv_segments_BK: jax.Array,
  config: AttentionConfig, *, cross: bool,
) -> jax.Array:  # fmt: skip
  """softmax(q k / sqrt(H)) v within segments. Returns [B, L, N, H] in q's dtype."""
  operands = q_BLNH, k_BKNH, v_BKNH, q_segments_BL, kv_segments_BK
  kernel = config.kernel_for(k_BKNH.shape[1])
  if kernel == "reference":
    return reference(*operands)
  how = {"kernel": kernel, "block": config.block}
  function = functools.partial(flash.attention, **how)
  q_axes = kv_axes = ("batch", "length", "act_heads", None)
  if cross or sharding.ways("length") == 1:
    kv_axes = ("batch", None, "act_heads", None)
  elif config.context == "ring":
    function = functools.partial(ring.attention, axis=sharding.ring_axis(), **how)
  else:
    q_axes = kv_axes = ("batch", None, "ulysses_heads", None)
  return sharding.per_device(
    function, operands, (q_axes, kv_axes, kv_axes, q_axes[:2], kv_axes[:2]), q_axes
  )


def reference(
  q_BLNH: jax.Array, k_BKNH: jax.Array, v_BKNH: jax.Array,
  q_segments_BL: jax.Array, kv_segments_BK: jax.Array,
) -> jax.Array:  # fmt: skip
  """softmax(q k / sqrt(H)) v within segments. Returns [B, L, N, H] in q's dtype."""
  scale = q_BLNH.shape[-1] ** -0.5
  logits = jnp.einsum(
    "BLNH,BKNH->BNLK", q_BLNH * scale, k_BKNH, preferred_element_type=jnp.float32
  )
  mask = q_segments_BL[:, None, :, None] == kv_segments_BK[:, None, None, :]
  mask &= (q_segments_BL > 0)[:, None, :, None]
  # The largest logit over all keys, masked or not, is as good a shift as any, as long
  # as the mask comes before the exponential: no -inf, and no NaN in a padded row.
  logits = jnp.where(mask, logits, -1e30)
  peak = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
  weights = jnp.exp(logits - jnp.maximum(peak, -1e29))
  total = jnp.sum(weights, -1)
  out = jnp.einsum("BNLK,BKNH->BLNH", weights.astype(v_BKNH.dtype), v_BKNH)
  inverse = 1.0 / jnp.maximum(total, 1e-30)
  return (out * jnp.swapaxes(inverse, 1, 2)[..., None]).astype(q_BLNH.dtype)


class Attention(nnx.Module):
  """Multi-head attention with RMSNorm of queries and keys over all heads (as Wan)."""

  def __init__(
    self, dim: int, num_heads: int, *, rngs: nnx.Rngs,
    config: AttentionConfig | None = None,
  ):  # fmt: skip
    if dim % num_heads:
      raise ValueError(f"num_heads ({num_heads}) must divide the width ({dim})")
    self.q = layers.Linear(dim, dim, axes=("embed", "heads"), rngs=rngs)
    self.k = layers.Linear(dim, dim, axes=("embed", "heads"), rngs=rngs)
    self.v = layers.Linear(dim, dim, axes=("embed", "heads"), rngs=rngs)
    self.out = layers.Linear(dim, dim, axes=("heads", "embed"), rngs=rngs)
    self.q_norm = layers.RMSNorm(dim, rngs=rngs)
    self.k_norm = layers.RMSNorm(dim, rngs=rngs)
    self.num_heads = num_heads
    self.config = config or AttentionConfig(kernel="reference")

  def __call__(
    self, x_BLD: jax.Array, context_BKD: jax.Array,
    segments_BL: jax.Array, context_segments_BK: jax.Array,
    rotary: tuple[jax.Array, jax.Array] | None = None,
  ) -> jax.Array:  # fmt: skip
    """Queries from x, keys and values from the context (which may be x itself)."""
    q_BLNH = self._heads(self.q_norm(self.q(x_BLD)))
    k_BKNH = self._heads(self.k_norm(self.k(context_BKD)))
    v_BKNH = self._heads(self.v(context_BKD))
    if rotary is not None:
      q_BLNH = _in_parts(positions.rotate(q_BLNH, rotary))
      k_BKNH = _in_parts(positions.rotate(k_BKNH, rotary))
    out_BLNH = attention(
      q_BLNH, k_BKNH, v_BKNH, segments_BL, context_segments_BK, self.config,
      cross=context_BKD is not x_BLD,
    )  # fmt: skip
    return self._mix(out_BLNH)

  def _heads(self, x_BLD: jax.Array) -> jax.Array:
    x_BLNH = x_BLD.reshape(*x_BLD.shape[:-1], self.num_heads, -1)
    return _in_parts(x_BLNH)

  def _mix(self, x_BLNH: jax.Array) -> jax.Array:
    # Parts are swapped before the heads are mixed: it is no sum over devices then.
    return self.out(_in_parts(x_BLNH).reshape(*x_BLNH.shape[:2], -1))


class ImageAttention(Attention):
  """Cross-attention to text and to image embeddings, summed: Wan 2.1's image-to-video."""

  def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs, **kwargs):
    super().__init__(dim, num_heads, rngs=rngs, **kwargs)
    self.image_k = layers.Linear(dim, dim, axes=("embed", "heads"), rngs=rngs)
    self.image_v = layers.Linear(dim, dim, axes=("embed", "heads"), rngs=rngs)
    self.image_k_norm = layers.RMSNorm(dim, rngs=rngs)

  def __call__(
    self, x_BLD: jax.Array, text_BMD: jax.Array, segments_BL: jax.Array,
    text_segments_BM: jax.Array, rotary: None, image_BID: jax.Array,
    image_segments_BI: jax.Array,
  ) -> jax.Array:  # fmt: skip
    """Queries from x; text and image embeddings have weights of their own."""
    assert rotary is None, "text has no place in the video"
    q_BLNH = self._heads(self.q_norm(self.q(x_BLD)))

    def attend(keys: jax.Array, values: jax.Array, segments: jax.Array) -> jax.Array:
      return attention(
        q_BLNH, self._heads(keys), self._heads(values), segments_BL, segments,
        self.config, cross=True,
      )  # fmt: skip

    of_text = self.k_norm(self.k(text_BMD)), self.v(text_BMD), text_segments_BM
    image_keys = self.image_k_norm(self.image_k(image_BID))
    of_image = image_keys, self.image_v(image_BID), image_segments_BI
    return self._mix(attend(*of_text) + attend(*of_image))


def _in_parts(x_BLNH: jax.Array) -> jax.Array:
  """Rows in parts over the context axis, as everywhere but inside `attention`."""
  return sharding.constrain(x_BLNH, "batch", "length", "act_heads", None)
