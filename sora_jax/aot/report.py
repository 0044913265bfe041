"""One config on one topology and mesh: what its program needs, as numbers and a table.

The times are bounds, not predictions: each is what the chip's data sheet allows if
nothing else stood in the way, and the step cannot be faster than the longest. Traffic
through HBM is told beside them, and bounds nothing: the program's text does not say what
stays on the chip.

Used by: sora_jax/compile.py.
"""

import time
from typing import Any

import jax

from sora_jax import chips, sharding
from sora_jax.aot import flops, hlo, programs
from sora_jax.training.config import TrainConfig

_GIB = 2**30
# Between slices, per device: a host's network, shared by its devices.
_DCN_BANDWIDTH = 6.25e9


def measure(
  config: TrainConfig, *, verb: str, chip: chips.Chip, topology: str,
  mesh: jax.sharding.Mesh, rows: int | None = None, clips: int = 16,
) -> dict[str, Any]:  # fmt: skip
  """Compiles the verb's step, and reads the program.

  Args:
    config: of a text-to-video run.
    verb: one of `programs.PROGRAMS`.
    chip: what its devices can do.
    topology: its name, to be told.
    mesh: over devices of that topology.
    rows: of the global batch; None for one on each device of the batch axes.
    clips: of ragged lengths that fill every row, for what depends on them.

  Raises:
    ValueError: the mesh does not fit the config's shapes.
  """
  with jax.set_mesh(mesh):
    ways = sharding.ways("batch")
  rows = rows or ways * config.accumulate
  if rows % (ways * config.accumulate):
    raise ValueError(
      f"--rows={rows} must be divisible by {ways} devices along the batch axes times "
      f"accumulate={config.accumulate}"
    )
  program = programs.PROGRAMS[verb](config, rows, mesh)
  held = _rows(config, clips, rows // ways // config.accumulate)
  jaxpr = program.jaxpr()
  counts = flops.count(jaxpr, held, mesh.size)
  backbone = config.objective.model.backbone
  model = _model_flops(config, verb, program, held, rows)
  started = time.perf_counter()
  try:
    compiled = program.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    compiled, reason = None, str(error).splitlines()[0][:300]
  result = {
    "verb": verb, "topology": topology, "devices": mesh.size,
    "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
    "rows": rows, "tokens_per_row": config.data.tokens_per_row, "clips_per_row": clips,
    "parameters": program.num_params, "remat": backbone.remat,
    "compile_s": round(time.perf_counter() - started, 1), "jax": jax.__version__,
    "flops": {
      "model": model, "hardware": counts.total(), "attention": counts["attention"],
      "hardware_over_model": round(counts.total() / model, 3),
    },
    "live_blocks_over_ideal": held.live_over_ideal(backbone.attention.block),
  }  # fmt: skip
  if compiled is None:
    return result | {"fits": False, "error": reason}
  return result | _of_program(compiled, chip, mesh, counts, model)


def _rows(config: TrainConfig, clips: int, per_device: int) -> flops.Rows:
  data, backbone = config.data, config.objective.model.backbone
  captions = min(128, data.text_tokens_per_row // clips)
  return flops.Rows(
    flops.ragged(clips, data.tokens_per_row, least=min(512, data.tokens_per_row // clips)),
    [captions] * clips, length=data.tokens_per_row, text=data.text_tokens_per_row,
    per_device=per_device, width=backbone.width, depth=backbone.depth,
  )  # fmt: skip


def _model_flops(config, verb: str, program, held: flops.Rows, rows: int) -> float:
  """A training step is three forward passes, a sampling step with guidance two."""
  forward = programs.forward(config, rows, program.mesh)
  return (3 if verb == "train" else 2) * flops.forward_flops(forward, held, rows)


def _of_program(compiled, chip: chips.Chip, mesh, counts, model: float) -> dict[str, Any]:
  stats = compiled.memory_analysis()
  moved = hlo.traffic(compiled.as_text(), mesh)
  peak = stats.peak_memory_in_bytes
  over_slices = lambda axes: "slice" in axes.split("+")  # noqa: E731
  sent = [(axes, size) for (_, axes), (_, size) in moved.collectives.items()]
  seconds = {
    "compute": counts.total() / mesh.size / chip.flops,
    # Half of the links' bandwidth goes out.
    "ici": sum(size for axes, size in sent if not over_slices(axes))
    / (chip.link_bandwidth / 2),
    "dcn": sum(size for axes, size in sent if over_slices(axes)) / _DCN_BANDWIDTH,
  }
  slowest = max(seconds, key=seconds.get)
  return {
    "fits": peak <= chip.hbm_bytes,
    "memory_gib": {
      "arguments": round(stats.argument_size_in_bytes / _GIB, 2),
      "outputs": round(stats.output_size_in_bytes / _GIB, 2),
      "temporaries": round(stats.temp_size_in_bytes / _GIB, 2),
      "reused": round(stats.alias_size_in_bytes / _GIB, 2),
      "peak": round(peak / _GIB, 2),
      "chip": round(chip.hbm_bytes / _GIB, 2),
    },
    "collectives": [
      {"kind": kind, "axes": axes, "calls": round(calls), "bytes": round(size)}
      for (kind, axes), (calls, size) in sorted(moved.collectives.items())
    ],
    # No bound: what every instruction reads and writes, as if nothing stayed on the chip.
    "hbm_s": round(moved.hbm_bytes / chip.hbm_bandwidth, 4),
    "bound_s": {name: round(value, 4) for name, value in seconds.items()},
    "bound_by": slowest,
    "mfu_bound": round(model / (mesh.size * chip.flops * seconds[slowest]), 3),
  }


def table(result: dict[str, Any]) -> str:
  """The numbers for people."""
  work = result["flops"]
  where = " x ".join(f"{axis} {size}" for axis, size in result["mesh"].items())
  lines = [
    f"{result['verb']} step, {result['parameters'] / 1e9:.2f} B parameters, "
    f"{result['devices']} x {result['topology'].split(':')[0]} "
    f"({result['topology']}), mesh {where or 'of one device'}",
    f"{result['rows']} rows of {result['tokens_per_row']:,} tokens, "
    f"{result['clips_per_row']} clips each; compiled in {result['compile_s']:.0f} s, "
    "not run",
    "",
    f"FLOPs          model {work['model']:.3g}, program {work['hardware']:.3g} "
    f"({work['hardware_over_model']:.2f}x, remat {result['remat']}), attention "
    f"{work['attention']:.3g}; live blocks {result['live_blocks_over_ideal']:.2f}x ideal",
  ]
  if "memory_gib" not in result:
    return "\n".join([*lines, f"does not fit: {result['error']}"])
  memory, bound = result["memory_gib"], result["bound_s"]
  spare = memory["chip"] - memory["peak"]
  lines += [
    f"HBM a device   peak {memory['peak']:.1f} of {memory['chip']:.1f} GiB: "
    + (f"fits, {spare:.1f} to spare" if result["fits"] else f"{-spare:.1f} too much")
    + f" (arguments {memory['arguments']:.1f}, temporaries {memory['temporaries']:.1f})",
    "at best         "
    + ", ".join(f"{name} {1e3 * value:,.0f} ms" for name, value in bound.items() if value)
    + f": {result['bound_by']}-bound, MFU at most {100 * result['mfu_bound']:.0f} %; "
    f"HBM {1e3 * result['hbm_s']:,.0f} ms if nothing stayed on the chip",
    "", f"{'collective':20} {'axes':16} {'calls':>7} {'MiB sent by a device':>22}",
  ]  # fmt: skip
  lines += [
    f"{one['kind']:20} {one['axes']:16} {one['calls']:7,} {one['bytes'] / 2**20:22,.1f}"
    for one in result["collectives"] if one["bytes"] >= 2**20
  ]  # fmt: skip
  return "\n".join(lines)
