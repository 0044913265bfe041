"""Useful tokens per second of a training step: packed rows against padded ones.

  python -m benchmarks.packed_vs_padded --out=benchmarks/results

The same model, clips, optimizer and tokens per step (padding included), in turn in one
process: rows packed by the demo's pipeline, and rows of one clip each, padded to the
longest clip. The ratio is what counts; machines are noisy. Beside it stands the ratio
that the fill alone promises, and the time that each part of the step takes.
"""

import json
import os
import pathlib
import platform
import statistics
import time

import jax
import numpy as np
from absl import flags

from configs import demo
from data_pipelines import moving_shapes
from sora_jax import api, cli
from sora_jax.nn import patches
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training import state, step

_OUT = flags.DEFINE_string("out", None, "Folder for packed_vs_padded.json.")
_ROUNDS = flags.DEFINE_integer("rounds", 12, "Steps of each kind that are timed.")

Clip = tuple[tuple[int, int, int], np.ndarray]  # size in patches, text ids


def clips(num: int, tokenizer) -> list[Clip]:
  """Sizes and captions of the demo's world; the values do not matter here."""
  world = moving_shapes.MovingShapes()
  found = []
  for i in range(num):
    clip = world.clip(i)
    t, h, w, _ = clip.frames.shape
    found.append(((1 + (t - 1) // 4, h // 8, w // 8), tokenizer.encode(clip.caption)))
  return found


def lay_out(
  stream: list[Clip], *, rows: int, length: int, text: int, segments: int, dim: int
) -> tuple[api.PackedTokens, int]:
  """A batch of the stream's first clips, first fit, and how many clips it took."""
  rng = np.random.default_rng(0)
  batch = api.PackedTokens(
    tokens=rng.normal(size=(rows, length, dim)).astype(np.float32),
    positions=np.zeros((rows, length, 3), np.int32),
    segment_ids=np.zeros((rows, length), np.int32),
    known=np.zeros((rows, length), bool),
    text=np.zeros((rows, text), np.int32),
    text_segment_ids=np.zeros((rows, text), np.int32),
    text_positions=np.zeros((rows, text), np.int32),
    sizes=np.zeros((rows, segments, 3), np.int32),
    fps=np.zeros((rows, segments), np.float32),
    clip_ids=np.full((rows, segments), -1, np.int32),
    text_dropped=np.zeros((rows, segments), bool),
  )
  used, words, count = np.zeros((3, rows), int)
  for number, (size, ids) in enumerate(stream):
    num = int(np.prod(size))
    fits = (used + num <= length) & (words + len(ids) <= text) & (count < segments)
    if not fits.any():
      return batch, number
    r = int(np.argmax(fits))
    span, word = slice(used[r], used[r] + num), slice(words[r], words[r] + len(ids))
    batch.positions[r, span] = patches.positions(size)
    batch.segment_ids[r, span] = count[r] + 1
    batch.text[r, word] = ids
    batch.text_segment_ids[r, word] = count[r] + 1
    batch.text_positions[r, word] = np.arange(len(ids))
    batch.sizes[r, count[r]], batch.clip_ids[r, count[r]] = size, number
    used[r], words[r], count[r] = span.stop, word.stop, count[r] + 1
  raise AssertionError("the stream is too short for one batch")


def measure(rounds: int) -> dict:
  config = demo.get_config("dit")
  tokenizer = config.objective.model.text.tokenizer
  stream = clips(400, tokenizer)
  longest = max(int(np.prod(size)) for size, _ in stream)
  words = max(len(ids) for _, ids in stream)
  data, dim = config.data, config.objective.model.backbone.token_dim
  total = data.rows * data.tokens_per_row
  layouts = {
    "packed": {
      "rows": data.rows, "length": data.tokens_per_row,
      "text": data.text_tokens_per_row, "segments": data.max_clips_per_row,
    },
    "padded": {
      "rows": round(total / longest), "length": longest, "text": words, "segments": 1
    },
  }  # fmt: skip

  mesh = config.mesh.make()
  skeleton = Skeleton.of(config.objective.make)
  optimizer = config.optimizer.make(1000)
  train_step = jax.jit(
    step.make_train_step(
      config.objective, skeleton, optimizer, seed=0, ema_decay=config.ema_decay
    )
  )
  batches, seconds, useful = {}, {name: [] for name in layouts}, {}
  with jax.set_mesh(mesh):
    train_state, _ = state.init_sharded(skeleton, optimizer, 0, mesh)
    for name, layout in layouts.items():
      batches[name], _ = lay_out(stream, dim=dim, **layout)
      useful[name] = int((batches[name].segment_ids > 0).sum())
      jax.block_until_ready(train_step(train_state, batches[name]))
    for _ in range(rounds):
      for name, batch in batches.items():
        start = time.perf_counter()
        jax.block_until_ready(train_step(train_state, batch))
        seconds[name].append(time.perf_counter() - start)

  result = {
    "hardware": f"{platform.machine()}, {os.cpu_count()} cores, "
    f"{jax.devices()[0].device_kind}",
    "versions": {"jax": jax.__version__, "python": platform.python_version()},
  }
  for name, layout in layouts.items():
    median = statistics.median(seconds[name])
    positions = layout["rows"] * layout["length"]
    result[name] = {
      **layout, "fill": useful[name] / positions, "useful_tokens": useful[name],
      "step_seconds": median, "useful_tokens_per_s": useful[name] / median,
      "positions_per_s": positions / median,
    }  # fmt: skip
  pairs = zip(seconds["packed"], seconds["padded"])
  ratios = [useful["packed"] / a / (useful["padded"] / b) for a, b in pairs]
  result["speedup"] = statistics.median(ratios)
  result["speedup_range"] = [min(ratios), max(ratios)]
  result["speedup_of_the_fill_alone"] = result["packed"]["fill"] / result["padded"]["fill"]
  return result


def main() -> None:
  result = measure(_ROUNDS.value)
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  (out / "packed_vs_padded.json").write_text(json.dumps(result, indent=1) + "\n")
  print(json.dumps(result, indent=1))


if __name__ == "__main__":
  flags.mark_flag_as_required("out")
  cli.run(main)
