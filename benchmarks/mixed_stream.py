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
import statistics

import jax
import numpy as np
from absl import flags

from benchmarks import measuring
from sora_jax import api, cli, sharding
from sora_jax.diffusion import process
from sora_jax.models import dit, text_to_video
from sora_jax.nn import attention, packing
from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import diffusion, known_masks
from sora_jax.text import stored, tokenizers
from sora_jax.training import metrics, optimizer, state, step

POSITIONS, LONGEST = 4096, 1024
BUCKETS = 15
TEXT, TEXT_DIM, DIM = 12, 64, 16  # text tokens a clip, their width, values a token


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


def denoiser(width: int = 256, depth: int = 4) -> diffusion.VideoDiffusion:
  """A small one, on tokens and captions such as `lay_out` makes."""
  text = stored.StoredTextConfig(tokenizer=tokenizers.StoredEmbeddings(), width=TEXT_DIM)
  return diffusion.VideoDiffusion(
    model=text_to_video.TextToVideoConfig(
      backbone=dit.DiTConfig(
        patch=(1, 1, 1), latent_channels=DIM, width=width, depth=depth, num_heads=4,
        mlp_dim=4 * width, text_dim=TEXT_DIM,
        attention=attention.AttentionConfig(block=128),
      ), text=text,
    ),
    times=process.LogitNormal(), shift=process.Shift(), masks=known_masks.KnownMasks(),
  )  # fmt: skip


def make_step():
  """(step, fresh state) of a small denoiser."""
  objective = denoiser()
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
        taken = measuring.seconds(run, train_state, plans[name][i][1])
        if number:  # the first one compiles
          times[name, i].append(taken)
        bar.update()
  result = {
    "hardware": measuring.hardware(),
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
  measuring.write("mixed_stream", _OUT.value, result)
  draw(result, _OUT.value)
  print(json.dumps(result, indent=1))


def draw(result: dict, folder: str) -> None:
  """Bars of useful tokens per second, with the fill of the rows under each."""
  found = result["schemes"]
  values = [one["useful_tokens_per_s"] for one in found.values()]
  labels = [f"{name}\n{100 * one['fill']:.0f} % full" for name, one in found.items()]
  with measuring.plot("mixed_stream", folder, (5.2, 3.2)) as (axes,):
    bars = axes.bar(labels, values, color=measuring.COLORS, width=0.6)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set_ylabel("useful tokens per second")
    axes.set_ylim(0, 1.15 * max(values))


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for mixed_stream.json and .png.")
  _CLIPS = flags.DEFINE_integer("clips", 4000, "Of the stream.")
  _ROUNDS = flags.DEFINE_integer("rounds", 5, "Steps of each shape that are timed.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
