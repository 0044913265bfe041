"""The loops of packed attention in plain XLA, for CPUs: one pair of live blocks a turn.

The same schedule and the same online softmax as the kernels of flash_tpu.py; all heads
go through a pair together.

Shapes: N heads, L queries and K keys of all rows, H head dim; q, k blocks of them.
Used by: flash.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sora_jax.nn import live_blocks
from sora_jax.nn.flash_tpu import LEAST, MASKED


def _slice(x: jax.Array, block: jax.Array, size: int) -> jax.Array:
  """Block number `block` along dim 1 of [N, L, ...]."""
  return jax.lax.dynamic_slice_in_dim(x, block * size, size, 1)


def _put(x: jax.Array, piece: jax.Array, block: jax.Array, size: int) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(x, piece, block * size, 1)


def _add(x: jax.Array, piece: jax.Array, block: jax.Array, size: int) -> jax.Array:
  return _put(x, _slice(x, block, size) + piece, block, size)


def _over_pairs(schedule: live_blocks.Schedule, body: Callable, start):
  def turn(number, carry):
    pair = schedule.by_query[number]
    return body(live_blocks.query_block(pair), live_blocks.key_block(pair), carry)

  return jax.lax.fori_loop(0, schedule.count, turn, start)


def _logits(q, k, q_ids, kv_ids, i, j, block_q: int, block_kv: int) -> jax.Array:
  logits = jnp.einsum(
    "Nqh,Nkh->Nqk", _slice(q, i, block_q), _slice(k, j, block_kv),
    preferred_element_type=jnp.float32,
  )  # fmt: skip
  rows, columns = _slice(q_ids[None], i, block_q), _slice(kv_ids[None], j, block_kv)
  return jnp.where(rows[:, :, None] == columns[:, None], logits, MASKED)


def forward(
  schedule: live_blocks.Schedule, q, k, v, q_ids, kv_ids, *, block_q: int, block_kv: int
) -> tuple[jax.Array, jax.Array]:
  """(out [N, L, H], log of the sums [N, L])."""

  def body(i, j, carry):
    out, peak, total = carry
    logits = _logits(q, k, q_ids, kv_ids, i, j, block_q, block_kv)
    before = _slice(peak, i, block_q)
    after = jnp.maximum(before, jnp.max(logits, -1))
    weights = jnp.exp(logits - after[..., None])
    decay = jnp.exp(before - after)
    summed = decay * _slice(total, i, block_q) + jnp.sum(weights, -1)
    values = jnp.einsum(
      "Nqk,Nkh->Nqh", weights.astype(v.dtype), _slice(v, j, block_kv),
      preferred_element_type=jnp.float32,
    )  # fmt: skip
    values += decay[..., None] * _slice(out, i, block_q)
    return (
      _put(out, values, i, block_q),
      _put(peak, after, i, block_q),
      _put(total, summed, i, block_q),
    )

  zeros = jnp.zeros(q.shape[:2], jnp.float32)
  start = jnp.zeros(q.shape, jnp.float32), zeros + LEAST, zeros
  out, peak, total = _over_pairs(schedule, body, start)
  total = jnp.maximum(total, 1e-30)
  return (out / total[..., None]).astype(q.dtype), peak + jnp.log(total)


def backward(
  schedule: live_blocks.Schedule, q, k, v, q_ids, kv_ids, lse, do, delta,
  *, block_q: int, block_kv: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
  """(dq, dk, dv) in one pass."""

  def body(i, j, carry):
    dq, dk, dv = carry
    logits = _logits(q, k, q_ids, kv_ids, i, j, block_q, block_kv)
    weights = jnp.exp(logits - _slice(lse, i, block_q)[..., None])
    do_q = _slice(do, i, block_q)
    inner = jnp.einsum("Nqh,Nkh->Nqk", do_q, _slice(v, j, block_kv))
    inner = weights * (inner - _slice(delta, i, block_q)[..., None])
    dq_i = jnp.einsum("Nqk,Nkh->Nqh", inner, _slice(k, j, block_kv))
    dk_j = jnp.einsum("Nqk,Nqh->Nkh", inner, _slice(q, i, block_q))
    dv_j = jnp.einsum("Nqk,Nqh->Nkh", weights, do_q)
    return (
      _add(dq, dq_i, i, block_q), _add(dk, dk_j, j, block_kv), _add(dv, dv_j, j, block_kv)
    )  # fmt: skip

  start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q, k, v))
  dq, dk, dv = _over_pairs(schedule, body, start)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)
