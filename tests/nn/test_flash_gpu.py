"""The GPU kernels, interpreted, equal the reference; and they lower for CUDA anywhere."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.nn import attention, flash, live_blocks
from tests.nn.test_flash import segments, value_and_grads

HEADS, DIM = 2, 24  # no power of two
# Rows: ragged clips with a one-token one; one clip; nothing; many small ones.
CLIPS = [[70, 1, 100], [180], [], [15] * 11]
# One clip without text, one whose text is one token, a row of text without clips.
TEXT = [[20, 0, 30], [77], [9], [7, 1, 0] * 3]
LENGTHS = {"self": (200, 200, CLIPS), "cross": (200, 80, TEXT)}


def operands(kind: str, dtype=jnp.float32, dim: int = DIM):
  """(q, k, v, q_segments, kv_segments, weight of the output)."""
  rng = np.random.default_rng(0)
  length, keys, kv_rows = LENGTHS[kind]
  q, k, v, weight = (
    jnp.asarray(rng.normal(size=(4, n, HEADS, dim)), dtype)
    for n in (length, keys, keys, length)
  )
  return q, k, v, segments(CLIPS, length), segments(kv_rows, keys), weight


def run(q, k, v, q_ids, kv_ids, kernel: str = "interpret_gpu"):
  return flash.attention(q, k, v, q_ids, kv_ids, kernel=kernel, block=128)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_the_kernels_equal_the_reference(kind, dtype):
  q, k, v, q_ids, kv_ids, weight = operands(kind, dtype)
  found = value_and_grads(lambda q, k, v: run(q, k, v, q_ids, kv_ids), q, k, v, weight)
  expected = value_and_grads(
    lambda q, k, v: attention.reference(q, k, v, q_ids, kv_ids),
    *(x.astype(jnp.float32) for x in (q, k, v, weight)),
  )
  tolerance = 5e-6 if dtype == jnp.float32 else 6e-2
  for a, b in zip(found, expected):
    assert a.dtype == dtype
    np.testing.assert_allclose(a.astype(jnp.float32), b, atol=tolerance, rtol=tolerance)
  unseen = q_ids == 0
  assert unseen.any() and not np.asarray(found[0], np.float32)[unseen].any()


@pytest.mark.parametrize("dim", [40, 256])
def test_any_head_dim(dim):
  q, k, v, q_ids, kv_ids, _ = operands("self", jnp.bfloat16, dim)
  q, k, v, q_ids, kv_ids = (x[:1] for x in (q, k, v, q_ids, kv_ids))
  expected = attention.reference(
    *(x.astype(jnp.float32) for x in (q, k, v)), q_ids, kv_ids
  )
  found = jax.jit(run)(q, k, v, q_ids, kv_ids).astype(jnp.float32)
  np.testing.assert_allclose(found, expected, atol=3e-2)


def test_log_sums_are_natural_and_those_of_no_key_next_to_minus_infinity():
  q, k, v, q_ids, kv_ids, _ = operands("self")

  def lse(kernel: str):
    blocks = flash.Blocks(kernel, 64, 64)
    ids = (flash.padded(jnp.asarray(x), 64) for x in (q_ids, kv_ids))
    heads = (flash.heads_first(x, 64) for x in (q, k, v))
    return jax.jit(flash.forward, static_argnums=0)(blocks, *heads, *ids)[1]

  found, expected = np.asarray(lse("interpret_gpu")), np.asarray(lse("loops"))
  seen = expected > -1e29  # a ring merges the parts by them
  assert seen.any() and not seen.all() and (found[~seen] < -1e29).all()
  np.testing.assert_allclose(found[seen], expected[seen], atol=5e-6)


def test_dead_blocks_are_never_touched():
  ids = segments([[128, 256]], 384)
  q, k, v = (jnp.ones((1, 384, 1, DIM)).at[:, 128:].set(jnp.nan) for _ in range(3))
  found = value_and_grads(
    lambda q, k, v: run(q, k, v, ids, ids), q, k, v, jnp.ones_like(q)
  )
  for x in found:
    assert np.isfinite(x[:, :128]).all() and np.isnan(x[:, 128:]).any()


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_starts_bound_the_pairs_of_a_block(kind):
  *_, q_ids, kv_ids, _ = operands(kind)
  q_ids, kv_ids = (flash.padded(jnp.asarray(x), 32) for x in (q_ids, kv_ids))
  schedule = jax.jit(lambda q, kv: live_blocks.schedule(q, kv, 32, 32))(q_ids, kv_ids)
  for pairs, counts, block_of in (
    (schedule.by_query, schedule.query_pairs, live_blocks.query_block),
    (schedule.by_key, schedule.key_pairs, live_blocks.key_block),
  ):
    starts = np.asarray(live_blocks.starts(counts))
    assert starts[0] == 0 and starts[-1] == schedule.count
    owners = np.repeat(np.arange(len(counts)), np.diff(starts))
    assert block_of(pairs)[: starts[-1]].tolist() == owners.tolist()


@pytest.mark.parametrize(
  ("dim", "dtype", "expected"),
  [(128, "bfloat16", (128, 64)), (256, "bfloat16", (64, 64)), (128, "float32", (32, 32))],
)
def test_blocks_fit_a_program(dim, dtype, expected):
  q, k = (jax.ShapeDtypeStruct((1, n, 1, dim), dtype) for n in (1000, 77))
  blocks = flash.Blocks.of("gpu", 512, q, k)
  assert (blocks.q, blocks.kv) == expected
  assert flash.Blocks.of("loops", 512, q, k) == flash.Blocks("loops", 512, 128)


@pytest.mark.parametrize(("dim", "dtype"), [(128, "bfloat16"), (24, "float32")])
@pytest.mark.parametrize(("name", "kernels"), [("forward", 1), ("gradients", 3)])
def test_the_kernels_lower_for_cuda_without_one(name, kernels, dim, dtype):
  def forward(*operands):
    return jnp.sum(run(*operands, kernel="gpu").astype(jnp.float32))

  function = forward if name == "forward" else jax.grad(forward, (0, 1, 2))
  x = jax.ShapeDtypeStruct((2, 300, 2, dim), dtype)
  text = jax.ShapeDtypeStruct((2, 77, 2, dim), dtype)
  ids = (jax.ShapeDtypeStruct(a.shape[:2], jnp.int32) for a in (x, text))
  # Newer versions of JAX want to know the chip; there is none here.
  chip = jax.sharding.AbstractDevice("NVIDIA H200", num_cores=None, platform="gpu")
  mesh = jax.sharding.AbstractMesh((), (), abstract_device=chip)
  with jax.sharding.use_abstract_mesh(mesh):
    traced = jax.jit(function).trace(x, text, text, *ids)
    lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert len(re.findall(r"custom_call @__gpu\$xla\.gpu\.triton", lowered)) == kernels
  # Of float32 no product may fall to TF32, which is what a GPU does by default.
  precisions = re.findall(r"\bprecision=(.*?HIGHEST|None)", str(traced.jaxpr))
  assert len(precisions) > kernels and "None" not in precisions


def test_auto_takes_the_kernel_of_the_backend(monkeypatch):
  config = attention.AttentionConfig()
  for backend, expected in (("gpu", "gpu"), ("tpu", "tpu"), ("cpu", "loops")):
    monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
    assert config.kernel_for(4096) == expected
