"""Host memory of conversions, of models with the shapes of Wan 14B and few layers.

  python -m benchmarks.convert_memory --out=benchmarks/results

The weights are bfloat16 zeros in a file with holes, which is read like any other. What
is measured is the peak of the process's own memory (RssAnon: mapped files are the
system's to drop) over what it had before the tensors were touched. It must not grow with
the number of layers, except with the largest tensor where that does: in our names a
matrix of all layers is one tensor. `warm start` puts the weights on eight (fake) devices
of this host; their own size is taken off.
"""

import json
import pathlib
import tempfile
import threading
import time
from multiprocessing.connection import Connection

import jax
from absl import flags

from benchmarks import measuring
from sora_jax import cli

_OUT = flags.DEFINE_string("out", None, "Folder for convert_memory.json and .png.")
_LAYERS = flags.DEFINE_multi_integer("layers", [1, 2, 4], "Depths to measure.")

_KINDS = (
  "diffusers to safetensors", "diffusers to orbax", "orbax to diffusers", "warm start"
)  # fmt: skip
_MB = 2**20


def _own_memory() -> int:
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith("RssAnon"):
      return int(line.split()[1]) * 1024
  raise OSError("this system does not tell RssAnon")


class _Peak:
  """The highest memory while it is entered, over that at the start."""

  def __enter__(self) -> "_Peak":
    self.start = self.highest = _own_memory()
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._watch)
    self._thread.start()
    return self

  def __exit__(self, *error) -> None:
    self._stop.set()
    self._thread.join()
    self.bytes = self.highest - self.start

  def _watch(self) -> None:
    while not self._stop.wait(0.002):
      self.highest = max(self.highest, _own_memory())


def _transformer(folder: pathlib.Path, layers: int) -> None:
  """A folder of diffusers with Wan 14B's shapes, all zeros, on no disk space."""
  from sora_jax.models import dit, wan_weights

  config = dit.DiTConfig(width=5120, depth=layers, num_heads=40, mlp_dim=13824)
  folder.mkdir()
  described = wan_weights.config_to_reference(config)
  (folder / "config.json").write_text(json.dumps(described))
  header, end = {}, 0
  for name, tensor in wan_weights.reference_shapes(config).items():
    start, end = end, end + 2 * tensor.size
    header[name] = {
      "dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]
    }  # fmt: skip
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with (folder / f"{wan_weights.STEM}.safetensors").open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + end)


def _convert(connection: Connection, kind: str, folder: str) -> None:
  """One conversion in a process of its own."""
  from sora_jax.export import sources, targets
  from sora_jax.nn.skeleton import Skeleton

  place = pathlib.Path(folder)
  for _ in measuring.requests(connection):
    begins, _, target = kind.partition(" to ")
    source = sources.open_source(place / ("run" if begins == "orbax" else "wan"))
    arrays = list(source.params.values())
    Skeleton.of(source.objective.make)
    kept = 0
    started = time.perf_counter()
    with _Peak() as peak:
      if kind == "warm start":
        kept = _load(source)
      else:
        out = "run" if target == "orbax" else target
        targets.write(target, source, place / out, targets.Options())
    connection.send({
      "peak_mb": round((peak.bytes - kept) / _MB),
      "largest_tensor_mb": round(max(x.nbytes for x in arrays) / _MB),
      "model_mb": round(sum(x.nbytes for x in arrays) / _MB),
      "seconds": round(time.perf_counter() - started, 1),
    })  # fmt: skip


def _load(source) -> int:
  """All parameters on eight devices; their bytes."""
  from sora_jax import sharding
  from sora_jax.nn.skeleton import Skeleton
  from sora_jax.weights import tensors

  mesh = sharding.MeshConfig().make()
  skeleton = Skeleton.of(source.objective.make)
  axes, _ = skeleton.logical_axes()
  layout = sharding.tree_shardings(mesh, axes, skeleton.abstract[0])
  loaded = [
    tensors.load(x, jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout[name]))
    for name, x in source.params.items()
  ]
  return sum(x.addressable_shards[0].data.nbytes * 8 for x in jax.block_until_ready(loaded))


def main() -> None:
  rows = []
  for layers in _LAYERS.value:
    with tempfile.TemporaryDirectory() as folder:
      _transformer(pathlib.Path(folder) / "wan", layers)
      for kind in _KINDS:
        worker = measuring.child(
          _convert, kind, folder, JAX_PLATFORMS="cpu",
          XLA_FLAGS="--xla_force_host_platform_device_count=8",
        )  # fmt: skip
        worker.send("go")
        rows.append({"layers": layers, "kind": kind, **worker.recv()})
        worker.close()
        print(rows[-1], flush=True)
  result = {"hardware": measuring.hardware(), "jax": jax.__version__, "rows": rows}
  measuring.write("convert_memory", _OUT.value, result)
  with measuring.plot("convert_memory", _OUT.value, (5.5, 3.6)) as (axes,):
    for kind, color in zip(_KINDS, measuring.COLORS):
      own = [row for row in rows if row["kind"] == kind]
      sizes = [row["model_mb"] / 1024 for row in own]
      peaks = [row["peak_mb"] / 1024 for row in own]
      axes.plot(sizes, peaks, "o-", color=color, label=kind)
    axes.plot(sizes, sizes, ":", color="#555555", label="the whole model")
    axes.plot(
      sizes, [row["largest_tensor_mb"] / 1024 for row in own], "--", color="#555555",
      label="the largest tensor",
    )  # fmt: skip
    axes.set(xlabel="model, GiB", ylabel="peak memory, GiB", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
  flags.mark_flag_as_required("out")
  cli.run(main)
