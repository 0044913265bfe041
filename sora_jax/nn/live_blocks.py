"""Which blocks of a packed attention are alive, as a schedule of (query, key) blocks.

Rows are cut into blocks of tokens. A block of queries and one of keys need each other
only where they hold a common segment; for clips of s_i tokens that leaves a number of
pairs that grows as the sum of s_i^2, not as the square of the row (the point of packing:
arXiv:2307.06304, 2.2). Segment numbers ascend along a row, so two blocks are taken as
alive where the ranges of their numbers meet; within a pair the mask is exact.

Shapes: B rows, L queries, K keys; nq, nk blocks a row; P pairs.
Used by: flash.py (which runs the pairs), aot/flops.py (which counts them).
"""

import dataclasses

import jax
import jax.numpy as jnp

# A pair is one int32: query block, key block, and whether it is the first or the last
# of its group. 15 bits for each block number.
_BITS = 15
FIRST, LAST = 1, 2
MAX_BLOCKS = 1 << _BITS


@jax.tree_util.register_dataclass
@dataclasses.dataclass(kw_only=True, slots=True)
class Schedule:
  """The live pairs of all rows, block numbers counted through the rows."""

  by_query: jax.Array  # int32 [P]: grouped by query block, for outputs and dq
  by_key: jax.Array  # int32 [P]: grouped by key block, for dk and dv
  count: jax.Array  # int32: how many of the P pairs count, at least one
  query_pairs: jax.Array  # int32 [B nq]: how many pairs each query block has
  key_pairs: jax.Array  # int32 [B nk]


def query_block(pair: jax.Array) -> jax.Array:
  return pair >> (_BITS + 2)


def key_block(pair: jax.Array) -> jax.Array:
  return (pair >> 2) & (MAX_BLOCKS - 1)


def starts(pairs: jax.Array) -> jax.Array:
  """Where the groups of so many pairs [n] start in their order, and the end: [n + 1]."""
  return jnp.pad(jnp.cumsum(pairs), (1, 0))


def live(
  q_segments_BL: jax.Array, kv_segments_BK: jax.Array, block_q: int, block_kv: int
) -> jax.Array:
  """bool [B, nq, nk]; the lengths must be multiples of the blocks."""
  q_low, q_high = _ranges(q_segments_BL, block_q)
  k_low, k_high = _ranges(kv_segments_BK, block_kv)
  return (q_low[:, :, None] <= k_high[:, None]) & (k_low[:, None] <= q_high[:, :, None])


def schedule(
  q_segments_BL: jax.Array, kv_segments_BK: jax.Array, block_q: int, block_kv: int
) -> Schedule:
  """The live pairs of every row.

  Raises:
    ValueError: the rows have more blocks than a pair can number.
  """
  alive = live(q_segments_BL, kv_segments_BK, block_q, block_kv)
  rows, num_q, num_k = alive.shape
  if rows * max(num_q, num_k) > MAX_BLOCKS:
    raise ValueError(
      f"packed attention over {rows} rows of {max(num_q, num_k)} blocks: at most "
      f"{MAX_BLOCKS} blocks a device; use larger blocks, or shard the rows further"
    )
  row, q, k = jnp.meshgrid(
    jnp.arange(rows), jnp.arange(num_q), jnp.arange(num_k), indexing="ij"
  )
  packed = ((row * num_q + q) << (_BITS + 2)) | ((row * num_k + k) << 2)

  def ordered(pairs: jax.Array, alive: jax.Array) -> jax.Array:
    """Live pairs first, the ends of the groups (along the last dim) marked."""
    order = jnp.arange(alive.shape[-1])
    first = order == jnp.argmax(alive, -1, keepdims=True)
    last = order == alive.shape[-1] - 1 - jnp.argmax(alive[..., ::-1], -1, keepdims=True)
    marked = (pairs | FIRST * first | LAST * last).astype(jnp.int32).ravel()
    (found,) = jnp.nonzero(alive.ravel(), size=alive.size, fill_value=0)
    return marked[found]

  none = ~jnp.any(alive)
  # Without any live pair, the first one is run and masked: a grid is never empty.
  lone = jnp.int32(FIRST | LAST)
  by_query = ordered(packed, alive)
  by_key = ordered(packed.swapaxes(1, 2), alive.swapaxes(1, 2))
  return Schedule(
    by_query=jnp.where(none, lone, by_query),
    by_key=jnp.where(none, lone, by_key),
    count=jnp.maximum(jnp.sum(alive, dtype=jnp.int32), 1),
    query_pairs=jnp.sum(alive, 2, dtype=jnp.int32).ravel(),
    key_pairs=jnp.sum(alive, 1, dtype=jnp.int32).ravel(),
  )


def _ranges(segments_BL: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
  """(lowest, highest) segment of each block, padding aside; low > high without any."""
  blocks = segments_BL.reshape(segments_BL.shape[0], -1, block)
  low = jnp.min(jnp.where(blocks > 0, blocks, jnp.iinfo(jnp.int32).max), -1)
  return low, jnp.max(blocks, -1)
