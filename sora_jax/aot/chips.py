"""TPUs that are not there: their topologies, and what one chip can do.

Numbers are the vendor's (https://cloud.google.com/tpu/docs/system-architecture-tpu-vm):
dense bf16 FLOP/s, HBM and its bandwidth, and the bandwidth of all links between chips,
both directions together. A tpu7x chip is two devices, so its row holds half a chip.

Used by: programs.py, report.py.
"""

import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device of a kind."""

  flops: float  # per second, bf16
  hbm_bytes: float
  hbm_bandwidth: float  # bytes per second
  ici_bandwidth: float  # bytes per second, over all links and both directions
  accelerator_type: str  # as the TPU library wants to hear it


CHIPS = {
  "v5e": Chip(197e12, 16e9, 819e9, 200e9, "v5litepod-4"),
  "v5p": Chip(459e12, 95e9, 2765e9, 600e9, "v5p-8"),
  "v6e": Chip(918e12, 32e9, 1640e9, 448e9, "v6e-4"),
  "tpu7x": Chip(1153.5e12, 96e9, 3690e9, 600e9, "tpu7x-8"),
}
# Between slices, per device: a host's network shared by its devices.
DCN_BANDWIDTH = 6.25e9


def chip_of(topology: str) -> Chip:
  """The chip of a topology such as "v5p:8x8x8".

  Raises:
    ValueError: an unknown kind.
  """
  kind = topology.split(":")[0]
  if kind not in CHIPS or ":" not in topology:
    raise ValueError(
      f"--topology={topology} must be KIND:SHAPE, such as v5p:8x8x8, with a kind of "
      f"{sorted(CHIPS)}"
    )
  return CHIPS[kind]


def use_compiler_only(topology: str) -> None:
  """Sets what the TPU library needs to compile without a TPU. Call before using JAX."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["TPU_SKIP_MDS_QUERY"] = "1"
  os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
  os.environ["TPU_ACCELERATOR_TYPE"] = chip_of(topology).accelerator_type
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
