"""Writes the prompts that a demo samples, as JSON lines for sora_jax.sample.

  python -m data_pipelines.jobs.write_prompts --per_group=96 --out=prompts.jsonl
  python -m data_pipelines.jobs.write_prompts --clips=DATASET --out=prompts.jsonl

Without --clips: the world of moving shapes, in groups (combinations that were trained
on, held-out ones, two objects), over sizes and durations of which two were never
trained on. With --clips: the captions of a dataset, at the sizes of its clips.
"""

import json
import pathlib
from typing import Any

from absl import flags

from data_pipelines import moving_shapes, rows
from sora_jax import cli

# (height, width, frames)
TRAINED_SIZES = ((32, 32, 9), (24, 40, 9), (40, 24, 13), (32, 48, 9))
NEW_SIZES = ((40, 32, 9), (32, 32, 17))
# Two objects need room; the last is new.
LARGE_SIZES = ((32, 48, 9), (48, 32, 9), (40, 40, 13), (40, 48, 9))

GROUPS: dict[str, dict[str, Any]] = {
  "seen": {"held_out": False, "num_objects": 1, "sizes": TRAINED_SIZES + NEW_SIZES},
  "heldout": {"held_out": True, "num_objects": 1, "sizes": TRAINED_SIZES + NEW_SIZES},
  "two objects": {"held_out": False, "num_objects": 2, "sizes": LARGE_SIZES},
}


def shapes_prompts(per_group: int) -> list[dict[str, Any]]:
  """`per_group` lines of each group; the sizes take turns."""
  lines = []
  for number, (group, how) in enumerate(GROUPS.items()):
    prompts = moving_shapes.prompts(
      per_group, number, held_out=how["held_out"], num_objects=how["num_objects"]
    )
    for i, prompt in enumerate(prompts):
      height, width, frames = how["sizes"][i % len(how["sizes"])]
      lines.append({
        "prompt": prompt, "size": f"{height}x{width}", "frames": frames,
        "seed": 1000 * number + i, "group": group,
      })  # fmt: skip
  return lines


def dataset_prompts(clips: str, most: int) -> list[dict[str, Any]]:
  """The captions of a dataset's training clips, each with its clip's size."""
  lines, seen = [], set()
  for record in rows.open_source(clips, "train"):
    frames, height, width = record["video"].shape[:3]
    prompt = record["caption"].decode()
    if (prompt, height, width) in seen or len(lines) == most:
      continue
    seen.add((prompt, height, width))
    lines.append({
      "prompt": prompt, "size": f"{height}x{width}", "frames": frames,
      "seed": len(lines), "group": "yours",
    })  # fmt: skip
  return lines


def main() -> None:
  if _CLIPS.value:
    lines = dataset_prompts(_CLIPS.value, _MOST.value)
  else:
    lines = shapes_prompts(_PER_GROUP.value)
  path = pathlib.Path(_OUT.value)
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
  path.write_text(text, encoding="utf-8")
  print(f"{len(lines)} prompts in {path}")


if __name__ == "__main__":
  _PER_GROUP = flags.DEFINE_integer("per_group", 96, "Prompts of each group.")
  _CLIPS = flags.DEFINE_string("clips", None, "Versioned folder of a clips dataset.")
  _MOST = flags.DEFINE_integer("most", 32, "Prompts at the most, with --clips.")
  _OUT = flags.DEFINE_string("out", None, "The file to write.")
  flags.mark_flag_as_required("out")
  cli.run(main)
