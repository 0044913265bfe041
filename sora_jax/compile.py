"""Compiles a config for TPUs that are not there, and says what it needs of them.

  python -m sora_jax.compile --config=configs/t2v.py:14b --topology=v5p:8x8x8 \\
      --mesh=fsdp=128,tensor=4 --out=report.json
  python -m sora_jax.compile --config=configs/t2v.py:1.3b --topology=v6e:4x4 --sweep

Runs on any CPU machine with the TPU compiler (pip install -e .[tpu]). Printed are the
memory of each device, FLOPs, collectives by mesh axis, and the bounds on the step's
time that follow from the chip's data sheet. Everything is compiled, nothing is run.
"""

import itertools
import json
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from sora_jax import cli, configlib
from sora_jax.aot import topology

_TOPOLOGY = flags.DEFINE_string("topology", None, "KIND:SHAPE, such as v5p:4x4x8.")
_SLICES = flags.DEFINE_integer("slices", 1, "Slices of that shape.", lower_bound=1)
_MESH = flags.DEFINE_string("mesh", "", "AXIS=SIZE,...; the rest goes to fsdp.")
_VERB = flags.DEFINE_enum("verb", "train", ["train", "sample"], "Which step.")
_ROWS = flags.DEFINE_integer("rows", None, "Of the global batch; one a batch device.")
_CLIPS = flags.DEFINE_integer("clips", 16, "Ragged clips in every row.", lower_bound=1)
_KERNEL = flags.DEFINE_string("kernel", "tpu", "Of attention; see nn/attention.py.")
_SWEEP = flags.DEFINE_bool("sweep", False, "Try the meshes of context and tensor.")
_OUT = flags.DEFINE_string("out", None, "JSON file for all numbers.")


def main() -> None:
  config = configlib.check(_CONFIG.value)
  config.objective.model.backbone.attention.kernel = _KERNEL.value
  devices = topology.devices_of(_TOPOLOGY.value, _SLICES.value)
  meshes = _meshes(len(devices)) if _SWEEP.value else [
    {"slice": _SLICES.value, **sharding.parse_mesh(_MESH.value)}
  ]
  results = []
  for mesh in meshes:
    result = _measure(config, mesh, devices)
    if result is not None:
      results.append(result)
  if not results:
    raise ValueError("no mesh of the sweep fits the config's shapes")
  # The best is what fits, and then what bounds the step the least.
  results.sort(key=lambda r: (not r["fits"], -r.get("mfu_bound", 0.0)))
  if _SWEEP.value:
    print("\nBest of the sweep:")
    print(report.table(results[0]))
  if _OUT.value:
    path = pathlib.Path(_OUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results if _SWEEP.value else results[0], indent=1))


def _measure(config, sizes: dict[str, int], devices: list) -> dict | None:
  """One mesh, printed; None where a sweep meets a mesh that does not divide."""
  try:
    mesh = sharding.MeshConfig(**sizes).make(devices)
    result = report.measure(
      config, verb=_VERB.value, chip=topology.chip_of(_TOPOLOGY.value),
      topology=_TOPOLOGY.value, mesh=mesh, rows=_ROWS.value, clips=_CLIPS.value,
    )  # fmt: skip
  except ValueError as error:
    if not _SWEEP.value:
      raise
    print(f"{sizes}: {error}")
    return None
  if not _SWEEP.value:
    print(report.table(result))
    return result
  fits = "fits" if result["fits"] else "does not fit"
  peak = result.get("memory_gib", {}).get("peak", float("nan"))
  bound = f"MFU at most {100 * result.get('mfu_bound', 0):.0f} % ({result.get('bound_by')})"
  print(f"{sizes}: {fits}, {peak:.1f} GiB, {bound}", flush=True)
  return result


def _meshes(num_devices: int) -> list[dict[str, int]]:
  """Every split of a slice with up to 16 devices along context and tensor."""
  own = num_devices // _SLICES.value
  return [
    {"slice": _SLICES.value, "context": context, "tensor": tensor}
    for context, tensor in itertools.product((1, 2, 4, 8, 16), (1, 2, 4, 8))
    if own % (context * tensor) == 0
  ]


def _topology_argument() -> str:
  """Before JAX loads, and so before flags are parsed."""
  for number, argument in enumerate(sys.argv):
    if argument.startswith("--topology="):
      return argument.partition("=")[2]
    if argument == "--topology" and number + 1 < len(sys.argv):
      return sys.argv[number + 1]
  return ""


if _topology_argument().split(":")[0] in topology.KINDS:
  topology.use_compiler_only(_topology_argument())

from sora_jax import sharding  # noqa: E402
from sora_jax.aot import report  # noqa: E402

if __name__ == "__main__":
  _CONFIG = config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:ARGUMENT]")
  flags.mark_flags_as_required(["config", "topology"])
  flags.register_validator(
    "config", lambda config: hasattr(config.objective.model, "backbone"),
    "--config must give a text-to-video run",
  )  # fmt: skip
  cli.run(main)
