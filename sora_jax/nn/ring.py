"""Packed attention over a row that lies in parts on the devices of a ring.

Every device keeps its queries; keys, values and their segments go around, and what each
part adds is merged by its log-sum (arXiv:2310.01889). Parts without a common segment
cost the passing only: the kernels find no live block. On the way back the gradients of
keys and values travel with them, and are home after one turn.

Shapes: as in flash.py; lengths are those of one device.
Used by: attention.py, inside a shard_map over the ring's mesh axis.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from sora_jax.nn import flash, flash_tpu


def attention(
  q_BLNH: jax.Array, k_BLNH: jax.Array, v_BLNH: jax.Array,
  q_segments_BL: jax.Array, kv_segments_BL: jax.Array,
  *, axis: str, kernel: str, block: int,
) -> jax.Array:  # fmt: skip
  """As `flash.attention`, where all arguments are this device's part of the rows."""
  blocks = flash.Blocks.of(kernel, block, q_BLNH, k_BLNH)
  out = _attend(
    blocks, axis, flash.heads_first(q_BLNH * q_BLNH.shape[-1] ** -0.5, blocks.q),
    flash.heads_first(k_BLNH, blocks.kv), flash.heads_first(v_BLNH, blocks.kv),
    flash.padded(q_segments_BL, blocks.q), flash.padded(kv_segments_BL, blocks.kv),
  )  # fmt: skip
  return flash.rows_first(out, q_BLNH.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(blocks, axis, q, k, v, q_ids, kv_ids):
  return _attend_forward(blocks, axis, q, k, v, q_ids, kv_ids)[0]


def _attend_forward(blocks, axis, q, k, v, q_ids, kv_ids):
  def turn(carry, _):
    out, lse, *visitor = carry
    part, part_lse = flash.forward(blocks, q, *visitor[:2], q_ids, visitor[2])
    total = jnp.logaddexp(lse, part_lse)
    out = out * _weight(lse, total) + part.astype(jnp.float32) * _weight(part_lse, total)
    return (out, total, *_pass_on(axis, visitor)), None

  out, lse = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:2], flash_tpu.LEAST)
  (out, lse, *_), _ = jax.lax.scan(
    turn, (out, lse, k, v, kv_ids), length=jax.lax.axis_size(axis)
  )
  out = checkpoint_name(out.astype(q.dtype), "attention")
  lse = checkpoint_name(lse, "attention")
  return out, (q, k, v, q_ids, kv_ids, out, lse)


def _attend_backward(blocks, axis, residuals, do):
  q, k, v, q_ids, kv_ids, out, lse = residuals
  delta = jnp.sum(out.astype(jnp.float32) * do.astype(jnp.float32), -1)

  def turn(carry, _):
    dq, k, v, kv_ids, dk, dv = carry
    parts = flash.backward(blocks, q, k, v, q_ids, kv_ids, lse, do, delta)
    dq, dk, dv = (x + part.astype(jnp.float32) for x, part in zip((dq, dk, dv), parts))
    return (dq, *_pass_on(axis, (k, v, kv_ids, dk, dv))), None

  zeros = [jnp.zeros(x.shape, jnp.float32) for x in (q, k, v)]
  (dq, *_, dk, dv), _ = jax.lax.scan(
    turn, (zeros[0], k, v, kv_ids, *zeros[1:]), length=jax.lax.axis_size(axis)
  )
  nothing = [np.zeros(ids.shape, jax.dtypes.float0) for ids in (q_ids, kv_ids)]
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), *nothing


_attend.defvjp(_attend_forward, _attend_backward)


def _weight(part: jax.Array, total: jax.Array) -> jax.Array:
  return jnp.exp(part - total)[..., None]


def _pass_on(axis: str, parts):
  """Every device's parts to the next one of the ring."""
  num = jax.lax.axis_size(axis)
  to_next = [(i, (i + 1) % num) for i in range(num)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, to_next), tuple(parts))
