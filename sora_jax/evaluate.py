"""Checks sampled videos against their prompts, in the world of moving shapes.

  python -m sora_jax.evaluate --samples=DIR --out=results.json

DIR is what `sora_jax.sample --lossless` wrote. The checker reads color, shape and motion
off the frames; results are given per group, where the prompts file named groups.
"""

import collections
import json
import pathlib

from absl import flags

from sora_jax import cli
from sora_jax.evals import shapes_checker
from sora_jax.generation import video_files

_SAMPLES = flags.DEFINE_string("samples", None, "Folder written by sora_jax.sample.")
_OUT = flags.DEFINE_string("out", None, "JSON file for the results.")


def main() -> None:
  folder = pathlib.Path(_SAMPLES.value)
  for name in ("samples.jsonl", "frames.npz"):
    if not (folder / name).exists():
      raise ValueError(
        f"{folder} has no {name}: sample with `python -m sora_jax.sample --lossless`"
      )
  samples = [json.loads(line) for line in (folder / "samples.jsonl").open()]
  frames = video_files.read_frames(folder / "frames.npz")
  groups = collections.defaultdict(list)
  for i, sample in enumerate(samples):
    sample["verdict"] = shapes_checker.check(frames[f"{i:04d}"], sample["prompt"])
    groups[sample.get("group", "all")].append(sample["verdict"])
  results = {name: shapes_checker.summarize(group) for name, group in groups.items()}
  out = pathlib.Path(_OUT.value)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps({"groups": results, "samples": samples}, indent=1))
  for name, result in results.items():
    print(f"{name}: {describe(result)}")


def describe(result: dict) -> str:
  """One line: the accuracies of a group in percent."""
  parts = [
    f"{part} {100 * result[f'{part}_accuracy']:.1f}"
    for part in ("color", "shape", "motion", "all")
  ]
  return f"n={result['n']}  " + "  ".join(parts) + " %"


if __name__ == "__main__":
  flags.mark_flags_as_required(["samples", "out"])
  cli.run(main)
