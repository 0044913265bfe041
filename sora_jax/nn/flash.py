"""Packed attention that runs live blocks only, with its gradients.

  kernel         where
  tpu            the Pallas kernels of flash_tpu.py
  interpret      the same, interpreted, anywhere: for tests
  gpu            the Pallas kernels of flash_gpu.py, through Triton
  interpret_gpu  the same, interpreted
  loops          plain XLA (flash_loops.py), for CPUs

What is alive is found once per call from the segment ids (live_blocks.py). The backward
pass recomputes the weights from the saved log-sums (FlashAttention-2, arXiv:2307.08691).

Shapes: B rows, L queries, K keys, N heads, H head dim.
Used by: attention.py, ring.py. Equal to attention.reference, values and gradients.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from sora_jax.nn import flash_gpu, flash_loops, flash_tpu, live_blocks


@dataclasses.dataclass(frozen=True)
class Kernel:
  """How live blocks are run."""

  forward: Callable
  backward: Callable
  # (head dim, dtype) -> the most tokens of a block of queries, and of one of keys.
  most_tokens: Callable | None = None

  @classmethod
  def of(cls, module, **options) -> "Kernel":
    forward = functools.partial(module.forward, **options)
    backward = functools.partial(module.backward, **options)
    return cls(forward, backward, getattr(module, "most_tokens", None))


KERNELS = {
  "tpu": Kernel.of(flash_tpu, interpret=False),
  "interpret": Kernel.of(flash_tpu, interpret=True),
  "gpu": Kernel.of(flash_gpu, interpret=False),
  "interpret_gpu": Kernel.of(flash_gpu, interpret=True),
  "loops": Kernel.of(flash_loops),
}


@dataclasses.dataclass(frozen=True)
class Blocks:
  """Which kernel, on blocks of how many tokens."""

  kernel: str
  q: int
  kv: int

  @classmethod
  def of(cls, kernel: str, block: int, q_BLNH: jax.Array, k_BKNH: jax.Array) -> "Blocks":
    """Blocks of at most `block`; short rows are one block of whole TPU lanes."""
    sizes, most = (block, block), KERNELS[kernel].most_tokens
    if most is not None:
      sizes = most(q_BLNH.shape[-1], q_BLNH.dtype)
    whole = (-(-x.shape[1] // 128) * 128 for x in (q_BLNH, k_BKNH))
    return cls(kernel, *(min(block, *of) for of in zip(sizes, whole)))

  @property
  def sizes(self) -> dict[str, int]:
    return {"block_q": self.q, "block_kv": self.kv}


def attention(
  q_BLNH: jax.Array, k_BKNH: jax.Array, v_BKNH: jax.Array,
  q_segments_BL: jax.Array, kv_segments_BK: jax.Array, *, kernel: str, block: int,
) -> jax.Array:  # fmt: skip
  """softmax(q k / sqrt(H)) v within segments. Returns [B, L, N, H] in q's dtype.

  Args:
    q_BLNH, k_BKNH, v_BKNH: of packed rows; lengths are padded to whole blocks here.
    q_segments_BL, kv_segments_BK: ascending along a row, 0 is padding.
    kernel: one of `KERNELS`.
    block: tokens of a block of queries, and of keys, at most; a multiple of 128 on TPUs.
  """
  blocks = Blocks.of(kernel, block, q_BLNH, k_BKNH)
  out = _attend(
    blocks, heads_first(q_BLNH * q_BLNH.shape[-1] ** -0.5, blocks.q),
    heads_first(k_BKNH, blocks.kv), heads_first(v_BKNH, blocks.kv),
    padded(q_segments_BL, blocks.q), padded(kv_segments_BK, blocks.kv),
  )  # fmt: skip
  return rows_first(out, q_BLNH.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(blocks: Blocks, q, k, v, q_ids_BL, kv_ids_BK):
  return _attend_forward(blocks, q, k, v, q_ids_BL, kv_ids_BK)[0]


def _attend_forward(blocks: Blocks, q, k, v, q_ids_BL, kv_ids_BK):
  out, lse = forward(blocks, q, k, v, q_ids_BL, kv_ids_BK)
  # By name, so that a rematerialization policy can keep them (stack.py).
  out, lse = checkpoint_name(out, "attention"), checkpoint_name(lse, "attention")
  return out, (q, k, v, q_ids_BL, kv_ids_BK, out, lse)


def _attend_backward(blocks: Blocks, residuals, do):
  *operands, out, lse = residuals
  delta = jnp.sum(out.astype(jnp.float32) * do.astype(jnp.float32), -1)
  grads = backward(blocks, *operands, lse, do, delta)
  return *grads, *(np.zeros(ids.shape, jax.dtypes.float0) for ids in operands[3:])


_attend.defvjp(_attend_forward, _attend_backward)


# ---- One call of the kernels; heads first, lengths in whole blocks ------------------


def forward(
  blocks: Blocks, q: jax.Array, k: jax.Array, v: jax.Array,
  q_ids_BL: jax.Array, kv_ids_BK: jax.Array,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """(out [N, B L, H], log of the sums [N, B L]); q is scaled.

  Queries without a key have out = 0 and next to minus infinity for a log.
  """
  schedule = live_blocks.schedule(q_ids_BL, kv_ids_BK, **blocks.sizes)
  run = KERNELS[blocks.kernel].forward
  out, lse = run(schedule, q, k, v, *_flat(q_ids_BL, kv_ids_BK), **blocks.sizes)
  seen = _tokens(schedule.query_pairs > 0, out)
  return jnp.where(seen[:, None], out, 0), jnp.where(seen, lse, flash_tpu.LEAST)


def backward(
  blocks: Blocks, q: jax.Array, k: jax.Array, v: jax.Array,
  q_ids_BL: jax.Array, kv_ids_BK: jax.Array, lse: jax.Array, do: jax.Array,
  delta: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
  """(dq, dk, dv) for the keys at hand; lse and delta = sum(do out) are of all keys."""
  schedule = live_blocks.schedule(q_ids_BL, kv_ids_BK, **blocks.sizes)
  run = KERNELS[blocks.kernel].backward
  dq, dk, dv = run(
    schedule, q, k, v, *_flat(q_ids_BL, kv_ids_BK), lse, do.astype(q.dtype), delta,
    **blocks.sizes,
  )  # fmt: skip
  of_query = _tokens(schedule.query_pairs > 0, dq)[:, None]
  of_key = _tokens(schedule.key_pairs > 0, dk)[:, None]
  return jnp.where(of_query, dq, 0), jnp.where(of_key, dk, 0), jnp.where(of_key, dv, 0)


def _flat(q_ids_BL: jax.Array, kv_ids_BK: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Padding equals nothing, not even padding."""
  return jnp.where(q_ids_BL > 0, q_ids_BL, -1).ravel(), kv_ids_BK.ravel()


def _tokens(visited: jax.Array, like: jax.Array) -> jax.Array:
  """bool per block -> per token of [N, L, H]. Unvisited blocks hold anything."""
  return jnp.repeat(visited, like.shape[1] // len(visited))


# ---- Layout -------------------------------------------------------------------------


def padded(x: jax.Array, block: int) -> jax.Array:
  """Zeros behind dim 1, up to whole blocks."""
  missing = -x.shape[1] % block
  return jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)) if missing else x


def heads_first(x_BLNH: jax.Array, block: int) -> jax.Array:
  """[B, L, N, H] -> [N, B L', H]."""
  x_NBLH = jnp.moveaxis(padded(x_BLNH, block), 2, 0)
  return x_NBLH.reshape(x_NBLH.shape[0], -1, x_NBLH.shape[-1])


def rows_first(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The way back, to [B, L, N, H]."""
  x_NBLH = x.reshape(x.shape[0], shape[0], -1, x.shape[-1])
  return jnp.moveaxis(x_NBLH[:, :, : shape[1]], 0, 2)
