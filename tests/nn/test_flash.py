"""Live-block attention equals the reference, and touches what it must and no more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import sharding
from sora_jax.nn import attention, flash, live_blocks

HEADS, DIM = 4, 16
# Rows: ragged clips with a one-token one; one clip; nothing; many small ones.
CLIPS = [[100, 1, 190, 60], [400], [], [30] * 12]
TEXT = [[20, 0, 30, 10], [130], [], [7, 0] * 6]


def segments(rows: list[list[int]], length: int) -> np.ndarray:
  ids = np.zeros((len(rows), length), np.int32)
  for r, clips in enumerate(rows):
    numbers = np.repeat(np.arange(1, len(clips) + 1), clips)
    ids[r, : len(numbers)] = numbers
  return ids


def operands(kind: str, dtype=jnp.float32, length: int = 400):
  """(q, k, v, q_segments, kv_segments, weight of the output)."""
  rng = np.random.default_rng(0)
  keys, kv_rows = (length, CLIPS) if kind == "self" else (150, TEXT)
  q, k, v, weight = (
    jnp.asarray(rng.normal(size=(4, n, HEADS, DIM)), dtype)
    for n in (length, keys, keys, length)
  )
  return q, k, v, segments(CLIPS, length), segments(kv_rows, keys), weight


def value_and_grads(function, q, k, v, weight):
  def total(q, k, v):
    out = function(q, k, v)
    return jnp.sum((out * weight).astype(jnp.float32)), out

  (_, out), grads = jax.jit(
    jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
  )(q, k, v)
  return out, *grads


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("kernel", ["loops", "interpret"])
def test_kernels_equal_the_reference(kernel, kind, dtype):
  q, k, v, q_ids, kv_ids, weight = operands(kind, dtype)
  found = value_and_grads(
    lambda q, k, v: flash.attention(q, k, v, q_ids, kv_ids, kernel=kernel, block=128),
    q, k, v, weight,
  )  # fmt: skip
  exact = (x.astype(jnp.float32) for x in (q, k, v, weight))
  expected = value_and_grads(
    lambda q, k, v: attention.reference(q, k, v, q_ids, kv_ids), *exact
  )
  tolerance = 5e-6 if dtype == jnp.float32 else 6e-2
  for a, b in zip(found, expected):
    assert a.dtype == dtype
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kernel", ["loops", "interpret"])
def test_dead_blocks_are_never_touched(kernel):
  ids = segments([[128, 256]], 384)
  q, k, v = (jnp.ones((1, 384, 1, DIM)).at[:, 128:].set(jnp.nan) for _ in range(3))
  out, *grads = value_and_grads(
    lambda q, k, v: flash.attention(q, k, v, ids, ids, kernel=kernel, block=128),
    q, k, v, jnp.ones_like(q),
  )  # fmt: skip
  for x in (out, *grads):
    assert np.isfinite(x[:, :128]).all() and np.isnan(x[:, 128:]).any()


def pairs_of(schedule: live_blocks.Schedule, name: str) -> list[tuple[int, int]]:
  pairs = getattr(schedule, name)[: int(schedule.count)]
  return [(int(live_blocks.query_block(p)), int(live_blocks.key_block(p))) for p in pairs]


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_the_schedule_is_the_pairs_with_a_common_segment(kind):
  *_, q_ids, kv_ids, _ = operands(kind)
  q_ids, kv_ids = (np.asarray(flash.padded(jnp.asarray(x), 64)) for x in (q_ids, kv_ids))
  schedule = live_blocks.schedule(jnp.asarray(q_ids), jnp.asarray(kv_ids), 64, 64)
  num_q, num_k = q_ids.shape[1] // 64, kv_ids.shape[1] // 64
  expected = {
    (r * num_q + i, r * num_k + j)
    for r in range(4) for i in range(num_q) for j in range(num_k)
    if set(q_ids[r, 64 * i : 64 * i + 64]) & set(kv_ids[r, 64 * j : 64 * j + 64]) - {0}
  }  # fmt: skip
  by_query, by_key = pairs_of(schedule, "by_query"), pairs_of(schedule, "by_key")
  found = set(by_query)
  # Between two clips with text one without may lie: its blocks are taken along.
  assert found >= expected and (kind == "cross" or found == expected)
  assert by_query == sorted(found) and by_key == sorted(found, key=lambda p: p[::-1])
  for name, group in (("by_query", 0), ("by_key", 1)):
    marks = np.asarray(getattr(schedule, name))[: len(found)]
    blocks = [pair[group] for pair in pairs_of(schedule, name)]
    ends = [i for i in range(len(blocks)) if blocks[i : i + 2] != [blocks[i]] * 2]
    assert np.flatnonzero(marks & live_blocks.LAST).tolist() == ends
    starts = [0, *(end + 1 for end in ends[:-1])]
    assert np.flatnonzero(marks & live_blocks.FIRST).tolist() == starts


def test_work_grows_with_the_clips_and_not_with_the_row():
  rng = np.random.default_rng(0)
  lengths = rng.multinomial(32_768 - 16 * 512, np.ones(16) / 16) + 512
  ids = jnp.asarray(segments([lengths.tolist()], 32_768))
  ideal = np.sum(lengths.astype(np.float64) ** 2)
  for block, most in ((128, 1.14), (256, 1.25), (512, 1.6)):
    count = int(live_blocks.schedule(ids, ids, block, block).count)
    assert count * block**2 <= most * ideal, block


MESHES = {
  "tensor": ({"data": 2, "fsdp": 2, "tensor": 2}, "ulysses"),
  "ulysses": ({"data": 2, "fsdp": 1, "context": 2, "tensor": 2}, "ulysses"),
  "ring": ({"data": 1, "fsdp": 2, "context": 4}, "ring"),
  "ring and tensor": ({"data": 2, "fsdp": 1, "context": 2, "tensor": 2}, "ring"),
}


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("name", MESHES)
def test_any_mesh_equals_one_device(name, kind):
  sizes, context = MESHES[name]
  mesh = sharding.MeshConfig(**sizes).make()
  config = attention.AttentionConfig(kernel="loops", block=128, context=context)
  q, k, v, q_ids, kv_ids, weight = operands(kind)
  with jax.set_mesh(mesh):
    found = value_and_grads(
      lambda q, k, v: attention.attention(
        q, k, v, q_ids, kv_ids, config, cross=kind == "cross"
      ),
      q, k, v, weight,
    )  # fmt: skip
  expected = value_and_grads(
    lambda q, k, v: attention.reference(q, k, v, q_ids, kv_ids), q, k, v, weight
  )
  for a, b in zip(found, expected):
    np.testing.assert_allclose(a, b, atol=5e-6, rtol=5e-6)


def test_heads_that_do_not_divide_are_named():
  config = attention.AttentionConfig(kernel="loops")
  q, k, v, q_ids, kv_ids, _ = operands("self")
  with (
    jax.set_mesh(sharding.MeshConfig(fsdp=1, tensor=8).make()),
    pytest.raises(ValueError, match=r"8 devices along tensor must divide 4, the 'act_h"),
  ):
    attention.attention(q, k, v, q_ids, kv_ids, config, cross=False)


def test_a_schedule_that_is_too_long_is_named():
  x = jax.ShapeDtypeStruct((1, 128 * 512, 1, 16), jnp.bfloat16)
  ids = jax.ShapeDtypeStruct(x.shape[:2], jnp.int32)
  with pytest.raises(ValueError, match=r"262144 pairs.*raise attention.block"):
    jax.eval_shape(
      lambda x, ids: flash.attention(x, x, x, ids, ids, kernel="tpu", block=128), x, ids
    )


@pytest.mark.parametrize(
  ("field", "value"), [("kernel", "fast"), ("context", "star"), ("block", 100)]
)
def test_wrong_settings_are_named(field, value):
  with pytest.raises(ValueError, match=f"attention.{field}={value!r}"):
    attention.AttentionConfig(**{field: value})
