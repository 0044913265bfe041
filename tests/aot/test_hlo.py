"""Collectives and bytes read off programs compiled for eight fake devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sora_jax import sharding
from sora_jax.aot import hlo

LAYERS, WIDTH = 5, 256


@pytest.fixture(scope="module")
def mesh():
  return sharding.MeshConfig(fsdp=4, tensor=2).make()


def collectives(mesh, function, *operands) -> dict:
  """(kind, axes) -> [calls, bytes] of function(*[(shape, spec), ...])."""
  structs = [
    jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    for shape, spec in operands
  ]
  text = jax.jit(function).lower(*structs).compile().as_text()
  return dict(hlo.traffic(text, mesh).collectives)


def per_device(mesh, body, spec_in, spec_out):
  return jax.shard_map(
    body, mesh=mesh, in_specs=spec_in, out_specs=spec_out, check_vma=False
  )


def test_a_gather_in_a_loop_counts_as_often_as_the_loop_runs(mesh):
  def body(x, w):
    def layer(x, w):
      return jnp.tanh(x @ jax.lax.all_gather(w, "fsdp", tiled=True)), None

    return jax.lax.scan(layer, x, w)[0]

  found = collectives(
    mesh, per_device(mesh, body, (P("fsdp"), P(None, "fsdp")), P("fsdp")),
    ((8, WIDTH), P("fsdp")), ((LAYERS, WIDTH, WIDTH), P(None, "fsdp")),
  )  # fmt: skip
  # Each device receives the three quarters of every layer that it does not hold.
  assert found == {("all-gather", "fsdp"): [LAYERS, LAYERS * 0.75 * WIDTH * WIDTH * 4]}


@pytest.mark.parametrize(
  ("axes", "name", "devices"),
  [("tensor", "tensor", 2), ("fsdp", "fsdp", 4), (("fsdp", "tensor"), "fsdp+tensor", 8)],
)
def test_sums_are_known_by_their_axes(mesh, axes, name, devices):
  found = collectives(
    mesh, per_device(mesh, lambda x: jax.lax.psum(x, axes), P(), P()), ((WIDTH,), P())
  )
  share = 2 * (devices - 1) / devices
  assert found == {("all-reduce", name): [1, share * WIDTH * 4]}


def test_a_ring_and_an_all_to_all(mesh):
  def ring(x):
    return jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)])

  found = collectives(mesh, per_device(mesh, ring, P("fsdp"), P("fsdp")),
                      ((WIDTH,), P("fsdp")))  # fmt: skip
  assert found == {("collective-permute", "fsdp"): [1, WIDTH]}

  def swap(x):
    return jax.lax.all_to_all(x, "tensor", 1, 0, tiled=True)

  found = collectives(mesh, per_device(mesh, swap, P("tensor"), P(None, "tensor")),
                      ((WIDTH, 8), P("tensor")))  # fmt: skip
  assert found == {("all-to-all", "tensor"): [1, 0.5 * WIDTH * 8 // 2 * 4]}


def test_groups_in_every_notation(mesh):
  wanted = [[0, 2, 4, 6], [1, 3, 5, 7]]
  for text in (
    "replica_groups={{0,2,4,6},{1,3,5,7}}, x",
    "replica_groups=[2,4]<=[4,2]T(1,0), x",
    "replica_groups=mesh['a'=4,'b'=2] {'a'}, x",
  ):
    assert hlo._replica_groups(text, 8) == wanted
    one = hlo.Instruction("name", "f32[8]", "all-reduce", text)
    assert hlo._Groups(mesh).of(one) == ("fsdp", 4)


def test_bytes_of_a_loop_s_slices_are_those_of_the_slices(mesh):
  def function(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x + w), None), x, w)[0]

  x = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
  w = jax.ShapeDtypeStruct((40, WIDTH, WIDTH), jnp.float32)
  text = jax.jit(function).lower(x, w).compile().as_text()
  moved = hlo.traffic(text, mesh).hbm_bytes
  least = 40 * 3 * WIDTH * WIDTH * 4
  assert least <= moved < 2.5 * least, moved / least
