"""TPU topologies that are not there, for the compiler that comes with the TPU library.

Used by: sora_jax/compile.py.
"""

import os

from sora_jax import chips

# Kind -> what the TPU library wants to hear.
KINDS = {
  "v5e": "v5litepod-4", "v5p": "v5p-8", "v6e": "v6e-4", "tpu7x": "tpu7x-8",
}  # fmt: skip


def chip_of(topology: str) -> chips.Chip:
  """The chip of a topology such as "v5p:8x8x8".

  Raises:
    ValueError: an unknown kind.
  """
  kind = topology.split(":")[0]
  if kind not in KINDS or ":" not in topology:
    raise ValueError(
      f"--topology={topology} must be KIND:SHAPE, such as v5p:8x8x8, with a kind of "
      f"{sorted(KINDS)}"
    )
  return chips.CHIPS[kind]


def use_compiler_only(topology: str) -> None:
  """Sets what the TPU library needs to compile without a TPU. Call before JAX starts."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["TPU_SKIP_MDS_QUERY"] = "1"
  os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
  chip_of(topology)
  os.environ["TPU_ACCELERATOR_TYPE"] = KINDS[topology.split(":")[0]]
  # Several may compile on one machine at a time.
  os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"


def devices_of(topology: str, slices: int) -> list:
  """The devices of so many slices of a topology.

  Raises:
    ValueError: no TPU library, or a shape that there is not.
  """
  from jax.experimental import topologies

  chip_of(topology)
  more = {"num_slices": slices} if slices > 1 else {}
  try:
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=topology, **more
    )
  except Exception as error:
    reason = str(error).splitlines()[0][:200]
    raise ValueError(
      f"--topology={topology}: {reason} (the TPU compiler comes with pip install -e "
      ".[tpu]; shapes are those of the vendor, such as v5e:4x4 or v5p:4x4x8)"
    ) from error
  return list(found.devices)
