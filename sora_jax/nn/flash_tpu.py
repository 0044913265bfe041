"""The TPU kernels of packed attention (Pallas): forward, dq, and dk with dv.

The grid is (heads, live pairs). The second dim is an argument, not a constant: blocks
without a common segment are neither fetched nor stepped over, row by row. A pair says
which blocks of queries and keys it needs, and whether it is the first or the last of its
group, so that sums are kept in VMEM from the first to the last. The online softmax is
FlashAttention-2's (arXiv:2307.08691).

Shapes: N heads, L queries and K keys of all rows, H head dim; q, k blocks of them.
Used by: flash.py.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from sora_jax.nn import live_blocks

_LANES, _SUBLANES = 128, 8
# A masked logit lies so far below the least possible maximum that it weighs nothing,
# even where all are masked; neither is infinite, so no difference is NaN.
MASKED, LEAST = -2e30, -1e30

# Of a schedule, 4 bytes each, in the 1 MiB of scalar memory, beside other things.
_MOST_PAIRS = 200_000

_NT = (((1,), (1,)), ((), ()))  # a b^T
_NN = (((1,), (0,)), ((), ()))  # a b


def _dot(a: jax.Array, b: jax.Array, dims) -> jax.Array:
  return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _wide(x_lanes: jax.Array, width: int) -> jax.Array:
  """[q, 128] of equal lanes -> [q, width]."""
  return jnp.tile(x_lanes, (1, pl.cdiv(width, _LANES)))[:, :width]


def _mask(rows_ref, columns_ref, shape: tuple[int, int]) -> jax.Array:
  """Equality of segments, from ids along rows [q, 128] and along columns [8, k]."""
  return _wide(rows_ref[...], shape[1]) == columns_ref[:1, :]


# ---- Forward ------------------------------------------------------------------------


def _forward_kernel(
  pairs_ref, q_ref, k_ref, v_ref, q_ids_ref, kv_ids_ref,
  out_ref, lse_ref, max_ref, sum_ref, total_ref,
):  # fmt: skip
  pair = pairs_ref[pl.program_id(1)]

  @pl.when((pair & live_blocks.FIRST) > 0)
  def _():
    max_ref[...] = jnp.full_like(max_ref, LEAST)
    sum_ref[...] = jnp.zeros_like(sum_ref)
    total_ref[...] = jnp.zeros_like(total_ref)

  logits = _dot(q_ref[...], k_ref[...], _NT)
  logits = jnp.where(_mask(q_ids_ref, kv_ids_ref, logits.shape), logits, MASKED)
  before = max_ref[...]
  peak = jnp.maximum(before, jnp.max(logits, 1, keepdims=True))
  weights = jnp.exp(logits - _wide(peak, logits.shape[1]))
  decay = jnp.exp(before - peak)
  max_ref[...] = peak
  sum_ref[...] = decay * sum_ref[...] + jnp.sum(weights, 1, keepdims=True)
  total = _dot(weights.astype(v_ref.dtype), v_ref[...], _NN)
  total_ref[...] = _wide(decay, total.shape[1]) * total_ref[...] + total

  @pl.when((pair & live_blocks.LAST) > 0)
  def _():
    norm = jnp.maximum(sum_ref[...], 1e-30)
    out_ref[...] = (total_ref[...] / _wide(norm, total.shape[1])).astype(out_ref.dtype)
    lse_ref[...] = max_ref[...] + jnp.log(norm)


def forward(
  schedule: live_blocks.Schedule, q: jax.Array, k: jax.Array, v: jax.Array,
  q_ids: jax.Array, kv_ids: jax.Array, *, block_q: int, block_kv: int, interpret: bool,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """(out [N, L, H], log of the sums [N, L]); unvisited blocks hold anything.

  Raises:
    ValueError: the schedule does not fit the scalar memory.
  """
  heads, length, dim = q.shape
  if schedule.by_query.size > _MOST_PAIRS:
    raise ValueError(
      f"attention over {length} queries in blocks of {block_q} needs a schedule of "
      f"{schedule.by_query.size} pairs, and a TPU's scalar memory holds {_MOST_PAIRS}: "
      "raise attention.block, or spread rows over more devices of the context axis with "
      "attention.context=ring"
    )
  specs = _Specs(block_q, block_kv, dim)
  out, lse = pl.pallas_call(
    _forward_kernel,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1, grid=(heads, schedule.count),
      in_specs=[specs.q, specs.kv, specs.kv, specs.q_rows, specs.kv_columns],
      out_specs=[specs.q, pl.BlockSpec((None, block_q, _LANES), specs.of_query)],
      scratch_shapes=[
        pltpu.VMEM((block_q, _LANES), jnp.float32),
        pltpu.VMEM((block_q, _LANES), jnp.float32),
        pltpu.VMEM((block_q, dim), jnp.float32),
      ],
    ),
    out_shape=[
      jax.ShapeDtypeStruct(q.shape, q.dtype),
      jax.ShapeDtypeStruct((heads, length, _LANES), jnp.float32),
    ],
    compiler_params=_PARALLEL_HEADS, interpret=interpret,
    name=specs.name("packed_attention"),
  )(schedule.by_query, q, k, v, _rows(q_ids), _columns(kv_ids))  # fmt: skip
  return out, lse[..., 0]


# ---- Backward -----------------------------------------------------------------------


def _dq_kernel(
  pairs_ref, q_ref, k_ref, v_ref, q_ids_ref, kv_ids_ref, lse_ref, do_ref, delta_ref,
  dq_ref, total_ref,
):  # fmt: skip
  pair = pairs_ref[pl.program_id(1)]

  @pl.when((pair & live_blocks.FIRST) > 0)
  def _():
    total_ref[...] = jnp.zeros_like(total_ref)

  logits = _dot(q_ref[...], k_ref[...], _NT)
  logits = jnp.where(_mask(q_ids_ref, kv_ids_ref, logits.shape), logits, MASKED)
  weights = jnp.exp(logits - jnp.expand_dims(lse_ref[0], -1))
  inner = _dot(do_ref[...], v_ref[...], _NT) - jnp.expand_dims(delta_ref[0], -1)
  total_ref[...] += _dot((weights * inner).astype(k_ref.dtype), k_ref[...], _NN)

  @pl.when((pair & live_blocks.LAST) > 0)
  def _():
    dq_ref[...] = total_ref[...].astype(dq_ref.dtype)


def _dkv_kernel(
  pairs_ref, q_ref, k_ref, v_ref, kv_ids_ref, q_ids_ref, lse_ref, do_ref, delta_ref,
  dk_ref, dv_ref, k_total_ref, v_total_ref,
):  # fmt: skip
  pair = pairs_ref[pl.program_id(1)]

  @pl.when((pair & live_blocks.FIRST) > 0)
  def _():
    k_total_ref[...] = jnp.zeros_like(k_total_ref)
    v_total_ref[...] = jnp.zeros_like(v_total_ref)

  # Transposed, [k, q]: what belongs to queries lies along the lanes.
  logits = _dot(k_ref[...], q_ref[...], _NT)
  logits = jnp.where(_mask(kv_ids_ref, q_ids_ref, logits.shape), logits, MASKED)
  weights = jnp.exp(logits - lse_ref[:1, :])
  v_total_ref[...] += _dot(weights.astype(do_ref.dtype), do_ref[...], _NN)
  inner = _dot(v_ref[...], do_ref[...], _NT) - delta_ref[:1, :]
  k_total_ref[...] += _dot((weights * inner).astype(q_ref.dtype), q_ref[...], _NN)

  @pl.when((pair & live_blocks.LAST) > 0)
  def _():
    dk_ref[...] = k_total_ref[...].astype(dk_ref.dtype)
    dv_ref[...] = v_total_ref[...].astype(dv_ref.dtype)


def backward(
  schedule: live_blocks.Schedule, q: jax.Array, k: jax.Array, v: jax.Array,
  q_ids: jax.Array, kv_ids: jax.Array, lse: jax.Array, do: jax.Array, delta: jax.Array,
  *, block_q: int, block_kv: int, interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
  """(dq, dk, dv); unvisited blocks hold anything. `delta` is sum(do * out)."""
  heads, _, dim = q.shape
  specs = _Specs(block_q, block_kv, dim)
  dq = pl.pallas_call(
    _dq_kernel,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1, grid=(heads, schedule.count),
      in_specs=[
        specs.q, specs.kv, specs.kv, specs.q_rows, specs.kv_columns,
        specs.q_value, specs.q, specs.q_value,
      ],
      out_specs=specs.q,
      scratch_shapes=[pltpu.VMEM((block_q, dim), jnp.float32)],
    ),
    out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    compiler_params=_PARALLEL_HEADS, interpret=interpret,
    name=specs.name("packed_attention_dq"),
  )(
    schedule.by_query, q, k, v, _rows(q_ids), _columns(kv_ids),
    lse[:, None], do, delta[:, None],
  )  # fmt: skip
  dk, dv = pl.pallas_call(
    _dkv_kernel,
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=1, grid=(heads, schedule.count),
      in_specs=[
        specs.q, specs.kv, specs.kv, specs.kv_rows, specs.q_columns,
        specs.q_value, specs.q, specs.q_value,
      ],
      out_specs=[specs.kv, specs.kv],
      scratch_shapes=[pltpu.VMEM((block_kv, dim), jnp.float32)] * 2,
    ),
    out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype)] * 2,
    compiler_params=_PARALLEL_HEADS, interpret=interpret,
    name=specs.name("packed_attention_dkv"),
  )(
    schedule.by_key, q, k, v, _rows(kv_ids), _columns(q_ids),
    lse[:, None], do, delta[:, None],
  )  # fmt: skip
  return dq, dk, dv


# ---- Blocks -------------------------------------------------------------------------

_PARALLEL_HEADS = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"))


class _Specs:
  """Where a grid step finds its blocks: (head, pair) -> indices."""

  def __init__(self, block_q: int, block_kv: int, dim: int):
    def of_query(head, step, pairs_ref):
      return head, live_blocks.query_block(pairs_ref[step]), 0

    def of_key(head, step, pairs_ref):
      return head, live_blocks.key_block(pairs_ref[step]), 0

    def swapped(index_map):
      return lambda *args: (index_map(*args)[0], 0, index_map(*args)[1])

    def without_head(index_map):
      return lambda *args: index_map(*args)[1:]

    self.of_query = of_query
    self.name = lambda kind: f"{kind}_q{block_q}_kv{block_kv}"  # read by aot/flops.py
    self.q = pl.BlockSpec((None, block_q, dim), of_query)
    self.kv = pl.BlockSpec((None, block_kv, dim), of_key)
    self.q_value = pl.BlockSpec((None, 1, block_q), swapped(of_query))
    self.q_rows = pl.BlockSpec((block_q, _LANES), without_head(of_query))
    self.kv_rows = pl.BlockSpec((block_kv, _LANES), without_head(of_key))
    self.q_columns = pl.BlockSpec((_SUBLANES, block_q), without_head(swapped(of_query)))
    self.kv_columns = pl.BlockSpec((_SUBLANES, block_kv), without_head(swapped(of_key)))


def _rows(ids: jax.Array) -> jax.Array:
  return jnp.broadcast_to(ids[:, None], (len(ids), _LANES))


def _columns(ids: jax.Array) -> jax.Array:
  return jnp.broadcast_to(ids[None], (_SUBLANES, len(ids)))


