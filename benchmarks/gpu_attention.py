"""The GPU's attention kernel: is it the reference, and how fast beside JAX's and cuDNN's.

Rows of 16 ragged clips. Beside it stands `jax.nn.dot_product_attention`, which knows no
segments, by XLA and by cuDNN, in three ways:

  masked    the whole row, with the mask of the segments
  clips     the clips as a batch, padded to the longest, with a length for each; they are
            gathered from the row and scattered back, which counts
  no mask   the whole row as one clip: what the chip does where nothing is skipped

Used by: gpu.py.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from sora_jax.aot import flops
from sora_jax.nn import attention, flash

CLIPS = 16
OTHERS = (
  ("xla", "masked"), ("xla", "clips"), ("cudnn", "masked"), ("cudnn", "clips"),
  ("cudnn", "no mask"),
)  # fmt: skip
# What the kernel may differ by, of the largest value.
MOST = {"float32": 2e-5, "bfloat16": 2e-2}

Row = dict[str, Any]


def attempt(row: Row, measure: Callable[[], Row]) -> Row:
  """The row with what `measure` adds to it, or with its error, in one line."""
  try:
    row = row | measure()
  # The last is what a torch without CUDA raises.
  except (RuntimeError, ValueError, ImportError, AssertionError) as error:
    row = row | {"error": (str(error) or type(error).__name__).splitlines()[0][:200]}
  print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
  return row


def clips_of(tokens: int) -> np.ndarray:
  """Lengths of the clips of a row, the same every time."""
  return np.asarray(flops.ragged(CLIPS, tokens, tokens // 64))


def ids_of(lengths: np.ndarray, tokens: int) -> jax.Array:
  """int32 [1, tokens]."""
  ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
  return jnp.asarray(np.pad(ids, (0, tokens - len(ids))), jnp.int32)[None]


def operands(tokens: int, heads: int, dim: int, dtype: str) -> list[jax.Array]:
  """q, k, v and the weight of the output, each [1, tokens, heads, dim]."""
  shape = 1, tokens, heads, dim
  return [jax.random.normal(jax.random.key(i), shape, dtype) for i in range(4)]


def packed(tokens: int, kernel: str) -> Callable:
  """(q, k, v) -> attention within the clips, by live blocks."""
  ids = ids_of(clips_of(tokens), tokens)
  return lambda q, k, v: flash.attention(q, k, v, ids, ids, kernel=kernel, block=128)


def dense(tokens: int, implementation: str, how: str) -> Callable:
  """(q, k, v) -> the same by JAX's dense attention, as above; or of one long clip."""
  run = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
  lengths = clips_of(tokens)
  ids = ids_of(lengths, tokens)
  if how == "no mask":
    return run
  if how == "masked":
    return lambda q, k, v: run(q, k, v, mask=(ids[:, :, None] == ids[:, None])[:, None])
  start = np.cumsum(lengths) - lengths
  # [clips, longest]: where a clip's tokens lie; and the way back.
  index = np.minimum(start[:, None] + np.arange(max(lengths)), tokens - 1)
  clip = np.repeat(np.arange(len(lengths)), lengths)
  place = np.arange(len(clip)) - start[clip]
  sizes = jnp.asarray(lengths, jnp.int32)

  def by_clip(q, k, v):
    out = run(
      q[0, index], k[0, index], v[0, index], query_seq_lengths=sizes,
      key_value_seq_lengths=sizes,
    )  # fmt: skip
    return jnp.zeros_like(q).at[0, : len(clip)].set(out[clip, place])

  return by_clip


def with_gradients(function: Callable) -> Callable:
  """(q, k, v, weight) -> the output and its gradients."""

  def total(q, k, v, weight):
    out = function(q, k, v)
    return jnp.sum((out * weight).astype(jnp.float32)), out

  def run(*inputs):
    (_, out), grads = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(*inputs)
    return out, *grads

  return run


def against_reference(
  kernel: str, dims: tuple[int, ...], heads: int, tokens: int
) -> list[Row]:
  """The largest differences of values and gradients, relative to the largest value."""
  ids = ids_of(clips_of(tokens), tokens)

  def measure(dim: int, dtype: str) -> Row:
    inputs = operands(tokens, heads, dim, dtype)
    found = jax.jit(with_gradients(packed(tokens, kernel)))(*inputs)
    exact = with_gradients(lambda q, k, v: attention.reference(q, k, v, ids, ids))
    # In float32 throughout, without the TF32 that a GPU would take.
    with jax.default_matmul_precision("highest"):
      expected = jax.jit(exact)(*(x.astype(jnp.float32) for x in inputs))
    differences = [
      float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b)))
      for a, b in zip(found, expected)
    ]
    row = {n: float(f"{d:.1e}") for n, d in zip(("out", "dq", "dk", "dv"), differences)}
    return row | {"equal": max(differences) <= MOST[dtype]}

  return [
    attempt({"head_dim": dim, "dtype": dtype}, functools.partial(measure, dim, dtype))
    for dim in dims for dtype in MOST
  ]  # fmt: skip


def times(
  kernel: str, row_lengths: tuple[int, ...], heads: int, dim: int, dtype: str,
  *, rounds: int, repeats: int,
) -> list[Row]:  # fmt: skip
  """Milliseconds of a row, and useful TFLOP/s of ours.

  `repeats` calls are one measurement: one alone is shorter than its launch from Python.
  """

  def measure(tokens: int, what: str, products: int, other: Callable) -> Row:
    backward = what != "forward"
    inputs = operands(tokens, heads, dim, dtype)[: 4 if backward else 3]

    def repeated(function: Callable) -> Callable:
      one = jax.jit(with_gradients(function) if backward else function)
      return lambda: [one(*inputs) for _ in range(repeats)]

    calls = {"ours": repeated(packed(tokens, kernel)), "other": repeated(other)}
    found = measuring.compare(calls, rounds)
    ours, theirs = found["ours_s"] / repeats, found["other_s"] / repeats
    useful = 2 * products * heads * dim * float(np.sum(clips_of(tokens) ** 2.0))
    return {
      "ours_ms": round(1e3 * ours, 3), "other_ms": round(1e3 * theirs, 3),
      "ratio": found["ratio"], "ours_tflops": round(useful / ours / 1e12, 1),
    }  # fmt: skip

  return [
    attempt(
      {"tokens": tokens, "pass": what, "against": f"{implementation}, {how}"},
      functools.partial(
        measure, tokens, what, products, dense(tokens, implementation, how)
      ),
    )
    for tokens in row_lengths
    # Two products forward, and five backward (the weights are made again).
    for what, products in (("forward", 2), ("forward and backward", 7))
    for implementation, how in OTHERS
  ]
