"""FLOPs counted from a jaxpr against those worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import sharding
from sora_jax.aot import flops
from sora_jax.nn import flash, stack

ROWS = flops.Rows([100, 28, 128], [8, 8, 8], length=256, text=128, per_device=2,
                  width=32, depth=1)  # fmt: skip
X = jax.ShapeDtypeStruct((4, 8), jnp.float32)
W = jax.ShapeDtypeStruct((5, 8, 8), jnp.float32)
ONE = 2 * 4 * 8 * 8  # FLOPs of x @ w


def dense(function, *args, devices: int = 1) -> float:
  return flops.count(jax.make_jaxpr(function)(*args), ROWS, devices)["dense"]


def layers(x, w, policy: str = "none"):
  def layer(x, w):
    return jnp.tanh(x @ w), None

  if policy != "none":
    layer = jax.checkpoint(layer, policy=stack.REMAT[policy])
  return jax.lax.scan(layer, x, w)[0].sum()


def test_loops_count_as_often_as_they_run():
  assert dense(layers, X, W) == 5 * ONE
  assert dense(jax.jit(layers), X, W) == 5 * ONE
  gradient = jax.grad(layers, argnums=(0, 1))
  assert dense(gradient, X, W) == 3 * 5 * ONE


def test_what_is_done_again_counts_again_and_what_is_dropped_does_not():
  gradient = jax.grad(functools.partial(layers, policy="full"), argnums=(0, 1))
  assert dense(gradient, X, W) == 4 * 5 * ONE
  assert dense(lambda x, w: (x @ w[0], x + 1)[1], X, W) == 0


def test_of_branches_the_longest_counts():
  def function(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x, lambda: x @ w[0] @ w[1])

  assert dense(function, X, W) == 2 * ONE


def test_convolutions():
  x = jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)
  conv = functools.partial(
    jax.lax.conv_general_dilated, window_strides=(1, 1), padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip
  assert dense(conv, x, kernel) == 2 * (6 * 6 * 5) * (3 * 3 * 3)


def test_a_shard_map_counts_for_every_device():
  mesh = sharding.MeshConfig().make()

  def function(x, w):
    out = (None, None)
    return sharding.per_device(lambda x, w: x @ w[0], (x, w), (out, (None,) * 3), out)

  with jax.set_mesh(mesh):
    assert dense(function, X, W, devices=8) == 8 * ONE


@pytest.mark.parametrize("which", ["forward", "gradient"])
def test_an_attention_kernel_counts_its_live_pairs(which):
  heads, dim, block = 3, 16, 128
  x = jax.ShapeDtypeStruct((2, 256, heads, dim), jnp.float32)
  ids = jax.ShapeDtypeStruct((2, 256), jnp.int32)

  def function(q, k, v, ids):
    return flash.attention(q, k, v, ids, ids, kernel="interpret", block=block).sum()

  products = 2
  if which == "gradient":
    function, products = jax.grad(function, argnums=(0, 1, 2)), 2 + 3 + 4
  counts = flops.count(jax.make_jaxpr(function)(x, x, x, ids), ROWS, 1)
  # Clips of 100, 28 and 128: a block of two clips and a block of one, in each row.
  pairs = 2 * 2
  assert counts == {"attention": heads * pairs * products * 2 * block**2 * dim}


def test_saved_attention_is_not_counted_again():
  x = jax.ShapeDtypeStruct((2, 256, 1, 16), jnp.float32)
  ids = jax.ShapeDtypeStruct((2, 256), jnp.int32)

  def layer(x, ids):
    return flash.attention(x, x, x, ids, ids, kernel="interpret", block=128)

  def total(policy):
    once = jax.checkpoint(layer, policy=stack.REMAT[policy])
    return jax.grad(lambda x, ids: jnp.sin(once(x, ids)).sum())

  saved, again = (
    flops.count(jax.make_jaxpr(total(policy))(x, ids), ROWS, 1)["attention"]
    for policy in ("attention", "full")
  )
  assert again / saved == pytest.approx(11 / 9)


def test_model_flops_are_those_of_the_clips():
  forward = jax.make_jaxpr(lambda x, w: x @ w[0])(X, W)
  s, m = np.float64([100, 28, 128]), 8
  attention = 4 * 32 * np.sum(s * (s + m))
  assert flops.forward_flops(forward, ROWS, 6) == ONE + 6 * attention


def test_ragged_lengths_fill_a_row():
  lengths = flops.ragged(16, 32_768, 512)
  assert len(set(lengths)) > 10 and min(lengths) >= 512
  assert 32_768 - 16 < sum(lengths) <= 32_768
