"""Attention between tokens of one segment.

`attention` is the reference: a masked float32 softmax. A query sees exactly the keys of
its own segment; queries of padding (segment 0), and queries whose segment has no key,
give zeros.

Shapes: B rows, L queries, K keys, N heads, H head dim, D = N * H.
Used by: models/dit.py, text/encoder.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax import sharding
from sora_jax.nn import layers, positions


def attention(
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

  def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs):
    if dim % num_heads:
      raise ValueError(f"num_heads ({num_heads}) must divide the width ({dim})")
    self.q = layers.Linear(dim, dim, axes=("embed", "heads"), rngs=rngs)
    self.k = layers.Linear(dim, dim, axes=("embed", "heads"), rngs=rngs)
    self.v = layers.Linear(dim, dim, axes=("embed", "heads"), rngs=rngs)
    self.out = layers.Linear(dim, dim, axes=("heads", "embed"), rngs=rngs)
    self.q_norm = layers.RMSNorm(dim, rngs=rngs)
    self.k_norm = layers.RMSNorm(dim, rngs=rngs)
    self.num_heads = num_heads

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
      q_BLNH = positions.rotate(q_BLNH, rotary)
      k_BKNH = positions.rotate(k_BKNH, rotary)
    out_BLNH = attention(q_BLNH, k_BKNH, v_BKNH, segments_BL, context_segments_BK)
    return self.out(out_BLNH.reshape(x_BLD.shape))

  def _heads(self, x_BLD: jax.Array) -> jax.Array:
    x_BLNH = x_BLD.reshape(*x_BLD.shape[:-1], self.num_heads, -1)
    return sharding.constrain(x_BLNH, "batch", "length", "act_heads", None)
