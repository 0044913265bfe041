"""What one device of a kind can do, by its data sheet.

TPU numbers are the vendor's (https://cloud.google.com/tpu/docs/system-architecture-tpu-vm):
dense bf16 FLOP/s, HBM and its bandwidth, and the bandwidth of all links between chips,
both directions together. A tpu7x chip is two devices, so its row holds half a chip.
GPU numbers are those of the SXM boards' data sheets, without sparsity
(https://www.nvidia.com/en-us/data-center/h100/, .../h200/), links being NVLink.

Used by: training/metrics.py (MFU), aot/ (what would bound a step).
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device of a kind."""

  flops: float  # per second, bf16
  hbm_bytes: float
  hbm_bandwidth: float  # bytes per second
  link_bandwidth: float  # bytes per second to other devices, both directions
  kinds: tuple[str, ...]  # what JAX calls it


CHIPS = {
  "v5e": Chip(197e12, 16e9, 819e9, 200e9, ("TPU v5 lite", "TPU v5e")),
  "v5p": Chip(459e12, 95e9, 2765e9, 600e9, ("TPU v5", "TPU v5p")),
  "v6e": Chip(918e12, 32e9, 1640e9, 448e9, ("TPU v6 lite", "TPU v6e")),
  "tpu7x": Chip(1153.5e12, 96e9, 3690e9, 600e9, ("TPU7x", "TPU v7x")),
  "h100": Chip(989e12, 80e9, 3350e9, 900e9, ("NVIDIA H100 80GB HBM3",)),
  "h200": Chip(989e12, 141e9, 4800e9, 900e9, ("NVIDIA H200",)),
}


def of_kind(device_kind: str) -> Chip | None:
  """The chip that JAX names so; None where no data sheet is known, as for CPUs."""
  return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)
