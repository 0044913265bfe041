"""Useful tokens per second of a training step: packed rows against padded ones.

  python -m benchmarks.packed_vs_padded --out=benchmarks/results

The same model, clips, optimizer and tokens per step (padding included), in turn in one
process: rows packed by the demo's pipeline, and rows of one clip each, padded to the
longest clip. The ratio is what counts; machines are noisy. Beside it stands the ratio
that the fill alone promises, and the time that each part of the step takes.
"""

import json
import platform
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import measuring
from configs import demo
from data_pipelines import moving_shapes
from sora_jax import api, cli
from sora_jax.nn import attention, packing
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
) -> api.PackedTokens:
  """A batch of the stream's first clips, first fit, until one fits nowhere."""
  rng = np.random.default_rng(0)
  batch = packing.empty(rows, tokens=length, token_dim=dim, text=text, segments=segments)
  for number, (size, ids) in enumerate(stream):
    num = int(np.prod(size))
    fits = (
      ((batch.segment_ids > 0).sum(1) + num <= length)
      & ((batch.text_segment_ids > 0).sum(1) + len(ids) <= text)
      & (batch.clip_ids[:, -1] < 0)
    )
    if not fits.any():
      break
    packing.append(
      batch, int(np.argmax(fits)), size=size, text=ids, clip_id=number,
      tokens=rng.normal(size=(num, dim)),
    )  # fmt: skip
  return batch


def mean_useful_tokens(stream: list[Clip], **layout: int) -> float:
  """Of one batch, over as many as the stream fills: the first one may be unlike others."""
  counts, start = [], 0
  while True:
    batch = lay_out(stream[start:], **layout)
    start += int((batch.clip_ids >= 0).sum())
    if start >= len(stream):
      return statistics.mean(counts)
    counts.append(int((batch.segment_ids > 0).sum()))


def seconds_of(function, *args) -> float:
  """Median over runs, after one that compiles."""
  measuring.seconds(function, *args)
  return statistics.median(measuring.seconds(function, *args) for _ in range(7))


def attention_seconds(batch: api.PackedTokens, backbone) -> float:
  """All layers' self- and cross-attention, forward and backward, projections apart."""
  rows, length = batch.segment_ids.shape
  heads, dim = backbone.num_heads, backbone.width // backbone.num_heads
  q = jnp.ones((rows, length, heads, dim))
  text = jnp.ones((rows, batch.text.shape[1], heads, dim))

  @jax.jit
  def both(q, text, segments, text_segments):
    def value(q, text):
      own = attention.reference(q, q, q, segments, segments)
      cross = attention.reference(q, text, text, segments, text_segments)
      return own.sum() + cross.sum()

    return jax.grad(value, (0, 1))(q, text)

  return backbone.depth * seconds_of(
    both, q, text, batch.segment_ids, batch.text_segment_ids
  )


def layouts_of(data, stream: list[Clip]) -> dict[str, dict[str, int]]:
  """The demo's packed rows, and rows of one clip with as many positions in all."""
  longest = max(int(np.prod(size)) for size, _ in stream)
  total = data.rows * data.tokens_per_row
  return {
    "packed": {
      "rows": data.rows, "length": data.tokens_per_row,
      "text": data.text_tokens_per_row, "segments": data.max_clips_per_row,
    },
    "padded": {
      "rows": round(total / longest), "length": longest,
      "text": max(len(ids) for _, ids in stream), "segments": 1,
    },
  }  # fmt: skip


def measure(rounds: int) -> dict:
  """The steps in turn, and what their parts take."""
  config = demo.get_config("dit")
  backbone = config.objective.model.backbone
  stream = clips(400, config.objective.model.text.tokenizer)
  layouts = layouts_of(config.data, stream)
  skeleton = Skeleton.of(config.objective.make)
  optimizer = config.optimizer.make(1000)
  train_step = jax.jit(
    step.make_train_step(
      config.objective, skeleton, optimizer, seed=0, ema_decay=config.ema_decay
    )
  )
  mesh = config.mesh.make()
  seconds: dict[str, list[float]] = {name: [] for name in layouts}
  batches = {
    name: lay_out(stream, dim=backbone.token_dim, **layout)
    for name, layout in layouts.items()
  }
  with jax.set_mesh(mesh):
    train_state, _ = state.init_sharded(skeleton, optimizer, 0, mesh)
    for batch in batches.values():
      measuring.seconds(train_step, train_state, batch)
    for _ in range(rounds):
      for name, batch in batches.items():
        seconds[name].append(measuring.seconds(train_step, train_state, batch))
    update = jax.jit(lambda s: optimizer.update(s.params, s.opt_state, s.params))
    update_seconds = seconds_of(update, train_state)

  result: dict = {}
  for name, layout in layouts.items():
    useful = mean_useful_tokens(stream, dim=backbone.token_dim, **layout)
    median = statistics.median(seconds[name])
    result[name] = {
      **layout,
      "fill": useful / (layout["rows"] * layout["length"]),
      "step_seconds": median,
      "attention_seconds": attention_seconds(batches[name], backbone),
      "optimizer_seconds": update_seconds,
      "useful_tokens_per_s": useful / median,
      "useful_tokens": useful,
    }
  packed, padded = result["packed"], result["padded"]
  share = packed["useful_tokens"] / padded["useful_tokens"]
  ratios = [share * b / a for a, b in zip(seconds["packed"], seconds["padded"])]
  return result | {
    "speedup": statistics.median(ratios),
    "speedup_range": [min(ratios), max(ratios)],
    "speedup_of_the_fill_alone": packed["fill"] / padded["fill"],
  }


def main() -> None:
  result = {
    "hardware": measuring.hardware(),
    "versions": {"jax": jax.__version__, "python": platform.python_version()},
    **measure(_ROUNDS.value),
  }
  measuring.write("packed_vs_padded", _OUT.value, result)
  print(json.dumps(result, indent=1))


if __name__ == "__main__":
  flags.mark_flag_as_required("out")
  cli.run(main)
