"""The README's table of pods: every row compiled for TPUs that are not there.

  pip install -e .[tpu]
  python -m benchmarks.pods --out=benchmarks/results

Each row is one `python -m sora_jax.compile` (about a minute, two cores), and all of its
numbers go to pods.json. Rows that stand there already are kept; --redo makes them anew.
Nothing runs on a TPU.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl import flags

from benchmarks import measuring
from sora_jax import cli
from sora_jax.training import metrics

_BACKBONE = "--config.objective.model.backbone"
_MINUTE = (
  "--config.data.tokens_per_row=2949120", "--config.data.text_tokens_per_row=512",
  "--config.data.max_clips_per_row=1", f"{_BACKBONE}.attention.context=ring",
  f"{_BACKBONE}.attention.block=640",
)  # fmt: skip
_LEAN = ("--config.optimizer.momentum_dtype=bfloat16",)

# Name -> config, topology, mesh, clips a row, what else.
ROWS = {
  "14b, 4 chips": ("14b-480p", "v5p:2x2x1", "fsdp=1,context=4", 16, _LEAN),
  "14b 720p, 4 chips": ("14b-720p", "v5p:2x2x1", "fsdp=1,context=4", 1, _LEAN),
  "14b, 512 chips": ("14b-480p", "v5p:8x8x8", "tensor=4", 16, ()),
  "14b 720p, 512 chips": ("14b-720p", "v5p:8x8x8", "context=4", 1, ()),
  "14b, 256 v6e": ("14b-480p", "v6e:16x16", "context=4", 16, ()),
  "14b 720p, 256 v6e": ("14b-720p", "v6e:16x16", "context=8", 1, ()),
  "30b, 2048 chips": ("30b-480p", "v5p:8x16x16", "tensor=4", 16, ()),
  "30b 720p, 2048 chips": ("30b-720p", "v5p:8x16x16", "context=4", 1, ()),
  "1.3b, 16 v5e": ("1.3b-480p", "v5e:4x4", "context=4", 16, ()),
  "5b, 64 v6e": ("5b-480p", "v6e:8x8", "context=4", 16, ()),
  "14b, 2 slices of 64": ("14b-480p", "v5p:4x4x4", "context=4", 16, ("--slices=2",)),
  "14b, 64 chips": ("14b-480p", "v5p:4x4x4", "context=4", 16, ()),
  "14b, 256 chips": ("14b-480p", "v5p:4x8x8", "context=4", 16, ()),
  "14b, 1024 chips": ("14b-480p", "v5p:8x8x16", "context=4", 16, ()),
  "14b, sampling 720p, 4 chips": (
    "14b-720p", "v5p:2x2x1", "fsdp=1,context=4", 1, ("--verb=sample",)),
  "14b, sampling a minute of 1080p, 512 chips": (
    "14b-720p", "v5p:8x8x8", "fsdp=1,context=512", 1, ("--verb=sample", *_MINUTE)),
  "14b, training on a minute of 1080p, 512 chips": (
    "14b-720p", "v5p:8x8x8", "fsdp=1,context=512", 1, _MINUTE),
}  # fmt: skip


def compile_row(config: str, topology: str, mesh: str, clips: int, more: tuple) -> dict:
  """The report of one row."""
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / "report.json"
    command = [
      sys.executable, "-m", "sora_jax.compile", f"--config=configs/t2v.py:{config}",
      f"--topology={topology}", f"--mesh={mesh}", f"--clips={clips}", f"--out={out}", *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if not out.exists():
      return {"error": done.stderr.strip().splitlines()[-1][:300]}
    return json.loads(out.read_text()) | {"config": config, "options": more}


def markdown(results: dict[str, dict]) -> str:
  lines = [
    "| | mesh | HBM a chip | FLOPs, program / model | MiB sent a chip | bound by, MFU at "
    "most | compiled in |", "|---|---|---|---|---|---|---|",
  ]  # fmt: skip
  for name, r in results.items():
    if "memory_gib" not in r:
      lines.append(f"| {name} | does not compile: {r['error'][:90]} | | | | | |")
      continue
    memory, sent = r["memory_gib"], sum(c["bytes"] for c in r["collectives"]) / 2**20
    mesh = " x ".join(f"{axis} {size}" for axis, size in r["mesh"].items())
    lines.append(
      f"| {name} ({r['topology']}) | {mesh} | {memory['peak']:.1f} of "
      f"{memory['chip']:.1f} GiB | {r['flops']['hardware_over_model']:.2f} | {sent:,.0f} | "
      f"{r['bound_by']}, {100 * r['mfu_bound']:.0f} % | {r['compile_s']:.0f} s |"
    )
  return "\n".join(lines)


def main() -> None:
  path = pathlib.Path(_OUT.value) / "pods.json"
  results = json.loads(path.read_text()) if path.exists() and not _REDO.value else {}
  chosen = {name: row for name, row in ROWS.items() if _ONLY.value in name}
  with metrics.progress(len(chosen), desc="compile", unit="row") as bar:
    for name, row in chosen.items():
      if name not in results or "error" in results[name]:
        results[name] = compile_row(*row)
        ordered = {n: results[n] for n in ROWS if n in results}
        measuring.write("pods", _OUT.value, ordered)
      bar.update()
  print(markdown({n: results[n] for n in ROWS if n in results}))


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for pods.json.")
  _REDO = flags.DEFINE_bool("redo", False, "Compile what stands there already.")
  _ONLY = flags.DEFINE_string("only", "", "Rows whose name holds this.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
