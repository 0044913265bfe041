"""Useful tokens per second on a stream of images and videos: three ways to batch it.

  python -m benchmarks.mixed_stream --out=benchmarks/results

The same stream of clips, the same model, the same number of token positions per step:

  packed    rows filled clip by clip, first fit (this project)
  bucketed  a bucket for every range of lengths, batches within a bucket, padded to its
            upper end (Open-Sora's scheme, arXiv:2412.20404)
  padded    one clip a row, padded to the longest

Lengths are images and videos in the proportions of a mixed training stage, scaled to
what a CPU can do. The time of the stream is that of its steps, each shape of batch timed
in turn over several rounds; attention skips what is padding in all three.
"""

import collections
import json
import os
import pathlib
import platform
import statistics
import time

import jax
import matplotlib
import numpy as np
from absl import flags

from sora_jax import api, cli, sharding
from sora_jax.diffusion import process
from sora_jax.models import dit, text_to_video
from sora_jax.nn import attention, packing
from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import diffusion, known_masks
from sora_jax.text import stored, tokenizers
from sora_jax.training import metrics, optimizer, state, step

matplotlib.use("Agg")
from matplotlib import pyplot

POSITIONS, LONGEST = 4096, 1024
BUCKETS = 15
TEXT, TEXT_DIM, DIM = 12, 64, 16  # text tokens a clip, their width, values a token
COLORS = ("#2a78d6", "#e07b39", "#9aa3ad")


def lengths(count: int) -> np.ndarray:
  """Tokens of each clip: two thirds images, the rest videos up to the longest."""
  rng = np.random.default_rng(0)
  images = rng.integers(48, 160, count)
  videos = np.exp(rng.uniform(np.log(96), np.log(LONGEST), count)).astype(int)
  return np.where(rng.random(count) < 2 / 3, images, videos)


def packed(stream: np.ndarray) -> list[list[list[int]]]:
  """Batches of rows of clip lengths; first fit over the rows of 16 batches."""
  rows: list[list[int]] = []
  open_rows: list[list[int]] = []
  for length in stream:
    row = next((r for r in open_rows if sum(r) + length <= LONGEST), None)
    if row is None:
      row = []
      open_rows.append(row)
      rows.append(row)
    row.append(int(length))
    if len(open_rows) > 16 * POSITIONS // LONGEST:
      open_rows.remove(max(open_rows, key=sum))
  return batches(rows, POSITIONS // LONGEST)


def batches(rows: list, size: int) -> list[list]:
  return [rows[i : i + size] for i in range(0, len(rows), size)]


def lay_out(batch: list[list[int]], length: int, rows: int, clips: int) -> api.PackedTokens:
  """One batch of the given shape; the values do not matter."""
  made = packing.empty(
    rows, tokens=length, token_dim=DIM, text=TEXT * clips, segments=clips,
    text_dim=TEXT_DIM,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  for r, row in enumerate(batch):
    for number, n in enumerate(row):
      packing.append(
        made, r, size=(n, 1, 1), tokens=rng.normal(size=(n, DIM)),
        text=rng.normal(size=(TEXT, TEXT_DIM)), clip_id=number,
      )  # fmt: skip
  return made


def schemes(stream: np.ndarray) -> dict[str, list[tuple[int, api.PackedTokens]]]:
  """Scheme -> (steps of this shape that the stream needs, a batch of it)."""
  rows = packed(stream)
  full = rows[len(rows) // 2]
  clips = max(len(row) for batch in rows for row in batch)
  found = {"packed": [(len(rows), lay_out(full, LONGEST, len(full), clips))]}
  edges = np.unique(np.quantile(stream, np.arange(1, BUCKETS + 1) / BUCKETS).astype(int))
  buckets = collections.defaultdict(list)
  for n in stream:
    buckets[int(edges[np.searchsorted(edges, n)])].append([int(n)])
  found["bucketed"] = []
  for edge, own in buckets.items():
    size = POSITIONS // edge
    parts = batches(own, size)
    found["bucketed"].append((len(parts), lay_out(parts[0], edge, size, 1)))
  alone = batches([[int(n)] for n in stream], POSITIONS // LONGEST)
  found["padded"] = [(len(alone), lay_out(alone[0], LONGEST, POSITIONS // LONGEST, 1))]
  return found


def make_step():
  """(step, fresh state) of a small denoiser."""
  text = stored.StoredTextConfig(tokenizer=tokenizers.StoredEmbeddings(), width=TEXT_DIM)
  objective = diffusion.VideoDiffusion(
    model=text_to_video.TextToVideoConfig(
      backbone=dit.DiTConfig(
        patch=(1, 1, 1), latent_channels=DIM, width=256, depth=4, num_heads=4,
        mlp_dim=1024, text_dim=TEXT_DIM, attention=attention.AttentionConfig(block=128),
      ), text=text,
    ),
    times=process.LogitNormal(), shift=process.Shift(), masks=known_masks.KnownMasks(),
  )  # fmt: skip
  skeleton = Skeleton.of(objective.make)
  rule = optimizer.AdamW(lr=optimizer.Cosine(peak=1e-4)).make(1000)
  mesh = sharding.MeshConfig().make()
  train_state, _ = state.init_sharded(skeleton, rule, 0, mesh)
  one = step.make_train_step(objective, skeleton, rule, seed=0, ema_decay=0.999)
  return jax.jit(one), train_state


def main() -> None:
  stream = lengths(_CLIPS.value)
  plans = schemes(stream)
  run, train_state = make_step()
  shapes = [(name, i) for name, plan in plans.items() for i in range(len(plan))]
  times = collections.defaultdict(list)
  with metrics.progress((1 + _ROUNDS.value) * len(shapes), desc="steps") as bar:
    for number in range(1 + _ROUNDS.value):
      for name, i in shapes:
        started = time.perf_counter()
        jax.block_until_ready(run(train_state, plans[name][i][1]))
        if number:  # the first one compiles
          times[name, i].append(time.perf_counter() - started)
        bar.update()
  result = {
    "hardware": f"{os.cpu_count()} x {platform.machine()} CPU cores",
    "jax": jax.__version__, "clips": len(stream), "positions_per_step": POSITIONS,
    "schemes": {},
  }  # fmt: skip
  for name, plan in plans.items():
    total = sum(n * statistics.median(times[name, i]) for i, (n, _) in enumerate(plan))
    positions = sum(n * batch.segment_ids.size for n, batch in plan)
    result["schemes"][name] = {
      "fill": round(float(stream.sum() / positions), 3), "shapes": len(plan),
      "steps": sum(n for n, _ in plan), "useful_tokens_per_s": round(stream.sum() / total),
    }  # fmt: skip
  mine = result["schemes"]["packed"]["useful_tokens_per_s"]
  for name in ("bucketed", "padded"):
    other = result["schemes"][name]["useful_tokens_per_s"]
    result[f"packed_over_{name}"] = round(mine / other, 2)
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  (out / "mixed_stream.json").write_text(json.dumps(result, indent=1))
  draw(result, out / "mixed_stream.png")
  print(json.dumps(result, indent=1))


def draw(result: dict, path: pathlib.Path) -> None:
  """Bars of useful tokens per second, with the fill of the rows under each."""
  figure, axes = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
  found = result["schemes"]
  values = [one["useful_tokens_per_s"] for one in found.values()]
  labels = [f"{name}\n{100 * one['fill']:.0f} % full" for name, one in found.items()]
  bars = axes.bar(labels, values, color=COLORS, width=0.6)
  axes.bar_label(bars, fmt="{:,.0f}", padding=3)
  axes.set_ylabel("useful tokens per second")
  axes.spines[["top", "right"]].set_visible(False)
  axes.set_ylim(0, 1.15 * max(values))
  figure.savefig(path, dpi=150)
  pyplot.close(figure)


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for mixed_stream.json and .png.")
  _CLIPS = flags.DEFINE_integer("clips", 4000, "Of the stream.")
  _ROUNDS = flags.DEFINE_integer("rounds", 5, "Steps of each shape that are timed.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
