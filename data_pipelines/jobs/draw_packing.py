"""Draws how clips are packed into rows, and compares the fill with padding.

  python -m data_pipelines.jobs.draw_packing --config=configs/demo.py:dit \\
      --config.data.path=LATENTS --out=DIR

Writes DIR/packing.png (the rows of one batch: every clip in its own color, padding
white) and DIR/packing.json (the fill over many batches, of packing and of padding).
"""

import json
import pathlib

import matplotlib.colors
import matplotlib.figure
import numpy as np
from absl import flags
from ml_collections import config_flags

from data_pipelines import loader
from sora_jax import api, cli, configlib


def measure(data: loader.PackedLatents, batches: int) -> tuple[dict, api.PackedTokens]:
  """Fill of packed rows and of rows padded to the longest clip; the first batch."""
  stream = data.open(range(data.rows))
  first, real, positions, lengths = None, 0, 0, []
  for _ in range(batches):
    batch = next(stream)
    first = first or batch
    real += int((batch.segment_ids > 0).sum())
    positions += batch.segment_ids.size
    sizes = np.prod(batch.sizes, -1)
    lengths.extend(sizes[sizes > 0].tolist())
  return {
    "efficiency": real / positions,
    "efficiency_padded": sum(lengths) / (len(lengths) * max(lengths)),
    "batches": batches,
    "clips_per_row": len(lengths) / (batches * data.rows),
    "mean_clip_tokens": sum(lengths) / len(lengths),
    "largest_clip_tokens": max(lengths),
  }, first


def draw(batch: api.PackedTokens, path: pathlib.Path) -> None:
  """A line per row of the batch, a color per clip; the sizes are written in."""
  rows, length = batch.segment_ids.shape
  figure = matplotlib.figure.Figure(figsize=(10, 0.4 + 0.32 * rows), dpi=110)
  axes = figure.add_subplot()
  hues = (np.arange(batch.sizes.shape[1]) * 0.38) % 1.0
  colors = matplotlib.colors.hsv_to_rgb([(hue, 0.45, 0.92) for hue in hues])
  picture = np.ones((rows, length, 3))
  for row in range(rows):
    for segment in range(1, batch.segment_ids[row].max() + 1):
      where = np.flatnonzero(batch.segment_ids[row] == segment)
      picture[row, where] = colors[(segment - 1 + row) % len(colors)]
      t, h, w = batch.sizes[row, segment - 1]
      axes.text(where.mean(), row, f"{t}×{h}×{w}", ha="center", va="center", fontsize=7)
  axes.imshow(picture, aspect="auto", interpolation="nearest")
  axes.set_yticks(np.arange(rows + 1) - 0.5, [""] * (rows + 1))
  axes.grid(axis="y", color="white", linewidth=3)
  axes.tick_params(axis="y", length=0)
  axes.set_xlabel("token of the row (each clip: frames × height × width in patches)")
  axes.set_ylabel("row of the batch")
  figure.tight_layout()
  figure.savefig(path)


def main() -> None:
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  result, first = measure(configlib.check(_CONFIG.value).data, _BATCHES.value)
  (out / "packing.json").write_text(json.dumps(result, indent=1))
  draw(first, out / "packing.png")
  print(
    f"packed rows are {100 * result['efficiency']:.1f} % full; padded to the longest "
    f"clip they would be {100 * result['efficiency_padded']:.1f} % full"
  )


if __name__ == "__main__":
  _CONFIG = config_flags.DEFINE_config_file("config", None, "A run on packed latents.")
  _OUT = flags.DEFINE_string("out", None, "Folder for the picture and the numbers.")
  _BATCHES = flags.DEFINE_integer("batches", 50, "How many to count.", lower_bound=1)
  flags.mark_flags_as_required(["config", "out"])
  cli.run(main)
