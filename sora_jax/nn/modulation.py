"""Noise levels -> adaptive layer-norm values, one row per (segment, known or not).

A token's noise level is its clip's t, or 0 where the token is known (clean). So a row
of S clips has S + 1 distinct levels: the modulation is computed for those and gathered
per token, never computed per token.

Shapes: B rows, L tokens, S segments, D width, K values a token.
Used by: models/dit.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sora_jax.nn import layers


def sinusoidal(t: jax.Array, dim: int, max_period: float = 10_000.0) -> jax.Array:
  """[..., dim] float32: cosines, then sines, of 1000 t (as Wan's timesteps)."""
  half = dim // 2
  frequency = max_period ** (-np.arange(half, dtype=np.float32) / half)
  angle = 1000.0 * t.astype(jnp.float32)[..., None] * frequency
  return jnp.concatenate((jnp.cos(angle), jnp.sin(angle)), -1)


class TimeEmbedding(nnx.Module):
  """t -> width D (for the head) and 6 D (for the blocks), as Wan's shared time MLP."""

  def __init__(self, dim: int, freq_dim: int, *, rngs: nnx.Rngs):
    self.hidden = layers.Linear(freq_dim, dim, axes=(None, "embed"), rngs=rngs)
    self.out = layers.Linear(dim, dim, rngs=rngs)
    # Zero, so that every block starts as the identity (adaLN-Zero, arXiv:2212.09748).
    self.project = layers.Linear(dim, 6 * dim, init=layers.zeros, rngs=rngs)
    self.freq_dim = freq_dim

  def __call__(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[...] -> ([..., D], [..., 6 D]), float32."""
    embedding = self.out(jax.nn.silu(self.hidden(sinusoidal(t, self.freq_dim))))
    return embedding, self.project(jax.nn.silu(embedding))


def levels(t_BS: jax.Array) -> jax.Array:
  """The S + 1 noise levels of each row: those of its clips, then 0 for known tokens."""
  return jnp.pad(t_BS, ((0, 0), (0, 1)))


def level_index(segment_ids_BL: jax.Array, known_BL: jax.Array, num: int) -> jax.Array:
  """Which of the `num` + 1 levels each token has, int32 [B, L]."""
  return jnp.where(known_BL, num, jnp.maximum(segment_ids_BL - 1, 0))


@jax.custom_vjp
def gather(table_BSK: jax.Array, index_BL: jax.Array) -> jax.Array:
  """table[b, index[b, l]] as [B, L, K].

  In bfloat16, that is on TPUs and GPUs, a matmul with a one-hot matrix, which the
  compiler fuses into what uses it; so is the backward pass everywhere, instead of a
  scatter-add, which is serial on every kind of hardware.
  """
  if table_BSK.dtype == jnp.bfloat16:
    one_hot_BLS = jax.nn.one_hot(index_BL, table_BSK.shape[1], dtype=table_BSK.dtype)
    return jnp.einsum("BLS,BSK->BLK", one_hot_BLS, table_BSK)
  return jnp.take_along_axis(table_BSK, index_BL[..., None], axis=1)


def _gather_forward(table_BSK: jax.Array, index_BL: jax.Array):
  return gather(table_BSK, index_BL), (index_BL, table_BSK.shape[1])


def _gather_backward(residuals, grad_BLK: jax.Array):
  index_BL, num = residuals
  one_hot_BLS = jax.nn.one_hot(index_BL, num, dtype=grad_BLK.dtype)
  table_BSK = jnp.einsum("BLS,BLK->BSK", one_hot_BLS, grad_BLK)
  return table_BSK, np.zeros(index_BL.shape, jax.dtypes.float0)


gather.defvjp(_gather_forward, _gather_backward)
