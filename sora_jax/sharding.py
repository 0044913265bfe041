"""Parallelism in one table: logical axes of arrays -> axes of the device mesh.

Parameters carry logical axis names (`nn/layers.py:param`), activations are named where
they are constrained (`constrain`). No other file knows a mesh axis.

  slice    replicas on other slices: the slow network between pods (DCN)
  data     replicas of everything
  fsdp     batch, and parameters sharded with it   (arXiv:2004.13336, ZeRO)
  context  the length of a row
  tensor   heads and MLP width               (arXiv:1909.08053, Megatron)

Used by: training/state.py, generation/generator.py and the layers of nn/.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding, PartitionSpec

from sora_jax.configlib import config

MESH_AXES = ("slice", "data", "fsdp", "context", "tensor")

# Logical axis -> mesh axes. An axis that is not listed is an error; None is replicated.
RULES: dict[str, tuple[str, ...] | None] = {
  # activations
  "batch": ("slice", "data", "fsdp"),
  "length": ("context",),
  "act_heads": ("tensor",),
  "ulysses_heads": ("tensor", "context"),  # while attention needs whole rows
  "act_mlp": ("tensor",),
  # parameters
  "embed": ("fsdp", "context"),
  "heads": ("tensor",),
  "mlp": ("tensor",),
  "vocab": None,
  "layers": None,
  "small": None,
}


@config
class MeshConfig:
  """How many devices stand along each mesh axis; -1 takes what is left."""

  slice: int = 1
  data: int = 1
  fsdp: int = -1
  context: int = 1
  tensor: int = 1

  def make(self, devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh over all (or the given) devices.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(self, axis) for axis in MESH_AXES]
    free = [i for i, size in enumerate(sizes) if size == -1]
    fixed = math.prod(size for size in sizes if size != -1)
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes):
      raise ValueError(f"mesh: at most one axis may be -1, the rest >= 1; got {self}")
    if len(devices) % fixed or (not free and fixed != len(devices)):
      raise ValueError(
        f"mesh: {self} needs {'a multiple of ' if free else ''}{fixed} devices, but "
        f"there are {len(devices)}"
      )
    for i in free:
      sizes[i] = len(devices) // fixed
    return jax.sharding.Mesh(
      _grid(sizes, devices), MESH_AXES,
      axis_types=(jax.sharding.AxisType.Auto,) * len(sizes),
    )  # fmt: skip


def parse_mesh(text: str) -> dict[str, int]:
  """The sizes in "fsdp=4,context=2", the words of a command.

  Raises:
    ValueError: a part is not AXIS=SIZE.
  """
  sizes = {}
  for part in filter(None, text.split(",")):
    axis, _, size = part.partition("=")
    if axis not in MESH_AXES or not size.lstrip("-").isdigit():
      raise ValueError(
        f"--mesh={text}: {part!r} must be AXIS=SIZE with an axis of {MESH_AXES}"
      )
    sizes[axis] = int(size)
  return sizes


def _grid(sizes: list[int], devices: list[jax.Device]) -> np.ndarray:
  """The devices laid out so that the last axes lie on the fastest links."""
  slices = {getattr(device, "slice_index", 0) for device in devices}
  if len(slices) == 1:
    # Sizes that do not follow the torus of a TPU slice are cut out of it all the same.
    return mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=devices[0].platform == "tpu"
    )
  if sizes[0] != len(slices):
    raise ValueError(f"mesh: slice={sizes[0]}, but there are {len(slices)} slices")
  return mesh_utils.create_hybrid_device_mesh(
    [1, *sizes[1:]], [sizes[0]] + [1] * len(sizes[1:]), devices,
    allow_split_physical_axes=True,
  )  # fmt: skip


def spec(logical_axes: tuple[str | None, ...]) -> PartitionSpec:
  """The PartitionSpec of an array whose dims have these logical names."""
  return PartitionSpec(*(RULES[axis] if axis else None for axis in logical_axes))


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
  """Asks for a layout of an activation; does nothing where there is no mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or math.prod(mesh.shape.values()) == 1:
    return x
  return jax.lax.with_sharding_constraint(x, spec(logical_axes))


def ways(logical_axis: str) -> int:
  """Over how many devices of the current mesh this axis is spread; 1 without a mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else math.prod(mesh.shape[a] for a in RULES[logical_axis] or ())


def ring_axis() -> str:
  """The mesh axis along which a row's parts stand, for what passes them around."""
  (axis,) = RULES["length"]
  return axis


def per_device(
  function: Callable[..., jax.Array], operands: tuple[jax.Array, ...],
  in_axes: tuple[tuple[str | None, ...], ...], out_axes: tuple[str | None, ...],
) -> jax.Array:  # fmt: skip
  """function(*operands) on each device's own parts; in_axes name the dims of each.

  For what the compiler cannot split by itself, such as kernels. Without a mesh it is
  the plain call.

  Raises:
    ValueError: a dim is not divisible by the mesh axes that it lies on.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or math.prod(mesh.shape.values()) == 1:
    return function(*operands)
  for operand, axes in zip(operands, in_axes):
    check(mesh, axes, operand.shape)
  return jax.shard_map(
    function, in_specs=tuple(spec(axes) for axes in in_axes), out_specs=spec(out_axes),
    check_vma=False,
  )(*operands)  # fmt: skip


def check(
  mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
  logical_axes: tuple[str | None, ...], shape: tuple[int, ...],
) -> None:  # fmt: skip
  """Raises ValueError where a dim is not divisible by the mesh axes that it lies on."""
  for dim, axis in zip(shape, logical_axes):
    axes = (RULES[axis] if axis else None) or ()
    devices = math.prod(mesh.shape[a] for a in axes)
    if dim % devices:
      raise ValueError(
        f"mesh: {devices} devices along {'x'.join(axes)} must divide {dim}, the "
        f"{axis!r} dim of an array of shape {shape} with logical axes {logical_axes}"
      )


def named(
  mesh: jax.sharding.Mesh, logical_axes: tuple[str | None, ...], shape: tuple[int, ...]
) -> NamedSharding:
  """The sharding of one array, checked against its shape.

  Raises:
    ValueError: a dim is not divisible by the mesh axes that it lies on.
  """
  check(mesh, logical_axes, shape)
  return NamedSharding(mesh, spec(logical_axes))


def tree_shardings(mesh: jax.sharding.Mesh, axes: Any, abstract: Any) -> Any:
  """`named` over a tree of logical axes (tuples) and one of arrays or shapes."""
  return jax.tree.map(
    lambda a, x: named(mesh, a, x.shape),
    axes, abstract, is_leaf=lambda a: isinstance(a, tuple),
  )  # fmt: skip


def batch(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The sharding of every array of a batch: rows over the batch axes."""
  return NamedSharding(mesh, spec(("batch",)))


def laid_out(abstract: Any, layout: Any) -> Any:
  """Abstract arrays (shapes and dtypes), each with its sharding of an equal tree."""
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    abstract, layout,
  )  # fmt: skip


def on_one_device(abstract: Any) -> Any:
  """Abstract arrays placed whole on this process's first device."""
  place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return laid_out(abstract, jax.tree.map(lambda _: place, abstract))
