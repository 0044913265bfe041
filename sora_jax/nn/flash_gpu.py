"""The GPU kernels of packed attention (Pallas on Triton): forward, dq, and dk with dv.

The grid is (blocks of one side, heads). A program keeps its block and its sums in
registers, and loops over the live pairs of that block alone, which the schedule holds
one after another. The online softmax, and the backward pass from the saved log-sums,
are FlashAttention-2's (arXiv:2307.08691); exponentials are powers of two.

Products of bfloat16 are exact and added up in float32. Those of float32 are IEEE ones,
never TF32: as exact as the reference, and slow, as no tensor core takes them.

Why Triton: Pallas has two ways to a GPU. Mosaic GPU is written for one generation of
chips at a time (wgmma of Hopper, tcgen05 of Blackwell), whose tensor cores know no IEEE
product of float32. Triton runs from Ampere on, and the interpreter runs the very same
program; but since 0.11 JAX means to remove it from Pallas "in a future version". Why not
cuDNN: `jax.nn.dot_product_attention` has a dense mask or one length per row for it, and
no segments; the packed layout behind it (q_offsets, kv_offsets) is private to JAX.

Shapes: N heads, L queries and K keys of all rows, H head dim; q, k blocks of them.
Used by: flash.py.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from sora_jax.nn import live_blocks
from sora_jax.nn.flash_tpu import LEAST, MASKED

# A program that keeps keys takes the queries of a pair in pieces of so many.
_PIECE = 64

_LOG2E = 1.4426950408889634
_NT = (((1,), (1,)), ((), ()))  # a b^T
_NN = (((1,), (0,)), ((), ()))  # a b


def _dot(a: jax.Array, b: jax.Array, dims) -> jax.Array:
  return jax.lax.dot_general(
    a, b, dims, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
  )


def _logits(a: jax.Array, b: jax.Array, a_ids: jax.Array, b_ids: jax.Array) -> jax.Array:
  """Log2 of weights between rows of a [a, H] and of b [b, H], masked by their ids."""
  mask = a_ids[:, None] == b_ids[None, :]
  return jnp.where(mask, _dot(a, b, _NT) * _LOG2E, MASKED)


def most_tokens(dim: int, dtype: jax.typing.DTypeLike) -> tuple[int, int]:
  """Of a block of queries, and of one of keys: what the registers of an H100 hold.

  Without tensor cores the factors of a product lie there too.
  """
  if jnp.dtype(dtype).itemsize == 4:
    return 32, 32
  return (128, 64) if dim <= 128 else (64, 64)


# ---- Kernels ------------------------------------------------------------------------


def _over_group(starts_ref, turn: Callable, carry, pieces: int = 1):
  """carry = turn(i, carry), for each piece i of the pairs of this program's group."""
  group = pl.program_id(0)
  first, end = starts_ref[group] * pieces, starts_ref[group + 1] * pieces
  return jax.lax.fori_loop(first, end, turn, carry)


def _forward_kernel(
  starts_ref, pairs_ref, q_ref, k_ref, v_ref, q_ids_ref, kv_ids_ref, out_ref, lse_ref,
  *, block_kv: int,
):  # fmt: skip
  q, q_ids = q_ref[...], q_ids_ref[...]

  def turn(number, carry):
    total, before, summed = carry
    keys = pl.ds(live_blocks.key_block(pairs_ref[number]) * block_kv, block_kv)
    logits = _logits(q, k_ref[keys, :], q_ids, kv_ids_ref[keys])
    peak = jnp.maximum(before, jnp.max(logits, 1))
    weights = jnp.exp2(logits - peak[:, None])
    decay = jnp.exp2(before - peak)
    values = _dot(weights.astype(v_ref.dtype), v_ref[keys, :], _NN)
    return total * decay[:, None] + values, peak, summed * decay + jnp.sum(weights, 1)

  zeros = jnp.zeros(lse_ref.shape, jnp.float32)
  start = jnp.zeros(out_ref.shape, jnp.float32), zeros + LEAST, zeros
  total, peak, summed = _over_group(starts_ref, turn, start)
  norm = jnp.maximum(summed, 1e-30)
  out_ref[...] = (total / norm[:, None]).astype(out_ref.dtype)
  lse_ref[...] = (peak + jnp.log2(norm)) / _LOG2E


def _dq_kernel(
  starts_ref, pairs_ref, q_ref, k_ref, v_ref, q_ids_ref, kv_ids_ref, lse_ref, do_ref,
  delta_ref, dq_ref, *, block_kv: int,
):  # fmt: skip
  q, do, q_ids = q_ref[...], do_ref[...], q_ids_ref[...]
  lse, delta = lse_ref[...] * _LOG2E, delta_ref[...]

  def turn(number, total):
    keys = pl.ds(live_blocks.key_block(pairs_ref[number]) * block_kv, block_kv)
    k = k_ref[keys, :]
    weights = jnp.exp2(_logits(q, k, q_ids, kv_ids_ref[keys]) - lse[:, None])
    inner = _dot(do, v_ref[keys, :], _NT) - delta[:, None]
    return total + _dot((weights * inner).astype(k.dtype), k, _NN)

  zeros = jnp.zeros(dq_ref.shape, jnp.float32)
  dq_ref[...] = _over_group(starts_ref, turn, zeros).astype(dq_ref.dtype)


def _dkv_kernel(
  starts_ref, pairs_ref, q_ref, k_ref, v_ref, q_ids_ref, kv_ids_ref, lse_ref, do_ref,
  delta_ref, dk_ref, dv_ref, *, block_q: int,
):  # fmt: skip
  k, v, kv_ids = k_ref[...], v_ref[...], kv_ids_ref[...]
  size = min(block_q, _PIECE)
  pieces = block_q // size

  def turn(number, carry):
    dk, dv = carry
    pair, piece = pairs_ref[jax.lax.div(number, pieces)], jax.lax.rem(number, pieces)
    queries = pl.ds((live_blocks.query_block(pair) * pieces + piece) * size, size)
    q, do = q_ref[queries, :], do_ref[queries, :]
    # Transposed, [k, q]: the sums over queries are plain products then.
    logits = _logits(k, q, kv_ids, q_ids_ref[queries])
    weights = jnp.exp2(logits - (lse_ref[queries] * _LOG2E)[None, :])
    inner = _dot(v, do, _NT) - delta_ref[queries][None, :]
    dv += _dot(weights.astype(do.dtype), do, _NN)
    return dk + _dot((weights * inner).astype(q.dtype), q, _NN), dv

  zeros = jnp.zeros(dk_ref.shape, jnp.float32)
  dk, dv = _over_group(starts_ref, turn, (zeros, zeros), pieces)
  dk_ref[...], dv_ref[...] = dk.astype(dk_ref.dtype), dv.astype(dv_ref.dtype)


# ---- Calls --------------------------------------------------------------------------


def forward(
  schedule: live_blocks.Schedule, q: jax.Array, k: jax.Array, v: jax.Array,
  q_ids: jax.Array, kv_ids: jax.Array, *, block_q: int, block_kv: int, interpret: bool,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """(out [N, L, H], log of the sums [N, L]); unvisited blocks hold anything."""
  dim, groups = q.shape[-1], live_blocks.starts(schedule.query_pairs)
  q, k, v = (_padded(x) for x in (q, k, v))
  out, lse = pl.pallas_call(
    functools.partial(_forward_kernel, block_kv=block_kv),
    grid=(len(groups) - 1, len(q)),
    in_specs=[
      _ALL, _ALL, _block(q, block_q), _head(k), _head(v), _block(q_ids, block_q), _ALL
    ],
    out_specs=[_block(q, block_q), _block(q[..., 0], block_q)],
    out_shape=[
      jax.ShapeDtypeStruct(q.shape, q.dtype),
      jax.ShapeDtypeStruct(q.shape[:2], jnp.float32),
    ],
    name="packed_attention", **_how(interpret, q.dtype, warps=8),
  )(groups, schedule.by_query, q, k, v, q_ids, kv_ids)  # fmt: skip
  return out[..., :dim], lse


def backward(
  schedule: live_blocks.Schedule, q: jax.Array, k: jax.Array, v: jax.Array,
  q_ids: jax.Array, kv_ids: jax.Array, lse: jax.Array, do: jax.Array, delta: jax.Array,
  *, block_q: int, block_kv: int, interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
  """(dq, dk, dv); unvisited blocks hold anything. `delta` is sum(do * out)."""
  dim, groups = q.shape[-1], live_blocks.starts(schedule.query_pairs)
  q, k, v, do = (_padded(x) for x in (q, k, v, do))
  of_query, of_key = _block(q, block_q), _block(k, block_kv)
  dq = pl.pallas_call(
    functools.partial(_dq_kernel, block_kv=block_kv),
    grid=(len(groups) - 1, len(q)),
    in_specs=[
      _ALL, _ALL, of_query, _head(k), _head(v), _block(q_ids, block_q), _ALL,
      _block(lse, block_q), of_query, _block(delta, block_q),
    ],
    out_specs=of_query, out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    name="packed_attention_dq", **_how(interpret, q.dtype, warps=8),
  )(groups, schedule.by_query, q, k, v, q_ids, kv_ids, lse, do, delta)  # fmt: skip
  groups = live_blocks.starts(schedule.key_pairs)
  dk, dv = pl.pallas_call(
    functools.partial(_dkv_kernel, block_q=block_q),
    grid=(len(groups) - 1, len(q)),
    in_specs=[
      _ALL, _ALL, _head(q), of_key, of_key, _ALL, _block(kv_ids, block_kv),
      _head(lse), _head(do), _head(delta),
    ],
    out_specs=[of_key, of_key], out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype)] * 2,
    name="packed_attention_dkv",
    **_how(interpret, q.dtype, warps=4 if k.shape[-1] <= 128 else 8),
  )(groups, schedule.by_key, q, k, v, q_ids, kv_ids, lse, do, delta)  # fmt: skip
  return dq[..., :dim], dk[..., :dim], dv[..., :dim]


def _how(interpret: bool, dtype: jax.typing.DTypeLike, warps: int) -> dict:
  """How a kernel is compiled, or interpreted; programs of float32 are smaller ones."""
  if interpret:
    return {"interpret": True}
  # Here, so that a version of JAX without it would miss it on GPUs only.
  from jax.experimental.pallas import triton

  warps = min(warps, 4) if jnp.dtype(dtype).itemsize == 4 else warps
  # Three stages: the number of the next but one block, the next block, and this one.
  return {"compiler_params": triton.CompilerParams(num_warps=warps, num_stages=3)}


def _padded(x: jax.Array) -> jax.Array:
  """Zeros behind the head dim, up to the powers of two that Triton's products take."""
  dim = max(16, pl.next_power_of_2(x.shape[-1]))
  return jnp.pad(x, ((0, 0), (0, 0), (0, dim - x.shape[-1])))


# ---- What a program sees of an array; the grid is (block, head) ---------------------

_ALL = pl.BlockSpec()


def _block(x: jax.Array, size: int) -> pl.BlockSpec:
  """Its block of [N, L, H], [N, L] or, for all heads, of [L]."""
  if x.ndim == 1:
    return pl.BlockSpec((size,), lambda block, head: (block,))
  behind = (0,) * (x.ndim - 2)
  return pl.BlockSpec(
    (None, size, *x.shape[2:]), lambda block, head: (head, block, *behind)
  )


def _head(x: jax.Array) -> pl.BlockSpec:
  """All of its head of [N, L, ...]."""
  behind = (0,) * (x.ndim - 1)
  return pl.BlockSpec((None, *x.shape[1:]), lambda block, head: (head, *behind))
