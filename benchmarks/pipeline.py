"""The input pipeline: useful tokens per second and core, beside what a step takes.

  python -m benchmarks.pipeline --out=benchmarks/results

A dataset of random latents is written as encode_latents writes them, and read as the train
loop reads them, by `PackedLatents.open`: records decoded, cut into patches, packed into
rows and batched. Two thirds of the clips are images, the rest videos of up to 21 latent
frames (81 frames of video); sides are half of those of 480p, so that a row of 8,192 tokens
is a quarter of the 480p stage's. Captions are words, or embeddings of UMT5-XXL's width,
which are most of the bytes then.

The pipeline of a process has one thread and no options of workers: more cores are used by
more processes, each of which reads its own rows of the global batch, as the processes of
a run do. So it is measured in one process and in several. Tokens per second and core are
over the CPU seconds of all processes, which others on the machine hardly disturb; beside
them stands what reading and decoding the records alone would give. The files come from
the page cache: disks and networks are not in the numbers.

The demand is a measured one too: steps of the demo's denoiser on those clips of the same
stream that have at most 2,048 tokens, on all cores or on the accelerator that is there.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import jax
import ml_dtypes
import numpy as np
from absl import flags
from matplotlib import ticker

from benchmarks import measuring
from configs import demo
from data_pipelines import datasets, loader, rows, shards
from data_pipelines.builders import latents
from sora_jax import cli
from sora_jax.nn.skeleton import Skeleton
from sora_jax.text import tokenizers
from sora_jax.training import state, step

CHANNELS, PATCH, FRAMES = 16, (1, 2, 2), 21
SIDES = ((30, 52), (52, 30), (38, 40))  # of the latents
CAPTION, TEXT_WIDTH = (24, 96), 4096  # words of a caption; values of an embedded one
ROWS, LENGTH = 2, 8192  # of the global batch
PROCESSES = (1, 2)
DIGITS = {"tokens_per_s": None, "tokens_per_s_and_core": None, "mb_per_s": 1,
          "packing_efficiency": 4}  # fmt: skip
WORDS = tokenizers.WordTokenizer(vocab_size=4096, max_tokens=CAPTION[1] + 1)
KINDS = {
  "words": (latents.Latents, WORDS),
  "embeddings": (latents.LatentsWithText, tokenizers.StoredEmbeddings(max_tokens=128)),
}


def examples(numbers: range, kind: str) -> Iterator[datasets.Example]:
  """Clips of random values; a number's size and caption are always the same."""
  for number in numbers:
    rng = np.random.default_rng(number)
    video = int(np.exp(rng.uniform(np.log(2), np.log(FRAMES + 1))))
    frames = 1 if rng.random() < 2 / 3 else video
    size = (frames, *SIDES[rng.integers(len(SIDES))])
    words = int(rng.integers(*CAPTION))
    text = rng.normal(size=(words, TEXT_WIDTH)).astype(ml_dtypes.bfloat16)
    yield {
      "index": number, "id": f"clip{number}", "fps": 16.0,
      "caption": " ".join(f"w{n}" for n in rng.integers(4000, size=words)),
      "latents": rng.normal(size=(*size, CHANNELS)).astype(np.float32),
      "video_size": np.int32([1 + 4 * (frames - 1), 8 * size[1], 8 * size[2]]),
    } | ({"text": text} if kind == "embeddings" else {})  # fmt: skip


def write(folder: pathlib.Path, kind: str, clips: int) -> str:
  """The versioned folder of a new dataset, in shards."""
  builder, _ = KINDS[kind]
  plan = shards.plan({"train": clips}, per_shard=64)
  dataset = shards.ShardedDataset(folder / kind, builder, {"benchmark": kind}, plan)
  for shard in dataset.unfinished():
    dataset.write(shard, examples(range(shard.start, shard.stop), kind))
  return str(dataset.finish())


def source(path: str, kind: str, length: int = LENGTH) -> loader.PackedLatents:
  """As a config of this size would name it."""
  return loader.PackedLatents(
    path=path, rows=ROWS, tokens_per_row=length, text_tokens_per_row=3 * length // 16,
    max_clips_per_row=24, patch=PATCH, tokenizer=KINDS[kind][1], skip_too_long=True,
  )  # fmt: skip


def read(parent: Connection, path: str, kind: str, part: range) -> None:
  """In a process of its own: reads so many batches of its rows when it is asked.

  Tells the useful tokens, their bytes with those of the captions, the positions, and the
  CPU seconds.
  """
  batches = source(path, kind).open(part)
  for number in measuring.requests(parent):
    tokens = size = positions = 0
    started = time.process_time()
    for _ in range(number):
      batch = next(batches)
      useful = int(np.count_nonzero(batch.segment_ids))
      tokens, positions = tokens + useful, positions + batch.segment_ids.size
      text = batch.text[0, 0].nbytes * int(np.count_nonzero(batch.text_segment_ids))
      size += useful * batch.tokens[0, 0].nbytes + text
    parent.send((tokens, size, positions, time.process_time() - started))


def measure(path: str, kind: str, rounds: int) -> dict[str, dict]:
  """Rates of one process and of several, in turn."""
  # A packer fills so many rows and then gives them out: a round is a whole turn of it.
  batches = source(path, kind).packing_bins
  groups = {
    processes: [
      measuring.child(read, path, kind, range(first, first + ROWS // processes))
      for first in range(0, ROWS, ROWS // processes)
    ]
    for processes in PROCESSES
  }
  found: dict[int, list[dict]] = {processes: [] for processes in PROCESSES}
  for _ in range(1 + rounds):
    for processes, readers in groups.items():
      started = time.perf_counter()
      for reader in readers:
        reader.send(batches)
      told = [reader.recv() for reader in readers]
      seconds = time.perf_counter() - started
      tokens, size, positions, cpu = (sum(values) for values in zip(*told))
      found[processes].append({
        "tokens_per_s": tokens / seconds, "tokens_per_s_and_core": tokens / cpu,
        "mb_per_s": size / seconds / 1e6, "packing_efficiency": tokens / positions,
      })  # fmt: skip
  for reader in (reader for readers in groups.values() for reader in readers):
    reader.close()
  return {
    f"{processes} process{'es' if processes > 1 else ''}": {
      name: round(statistics.median(one[name] for one in own[1:]), digits)
      for name, digits in DIGITS.items()
    }
    for processes, own in found.items()
  }


def records_alone(path: str) -> int:
  """Tokens per second and core of reading and decoding records, and nothing else."""
  records, tokens = rows.open_source(path, "train"), 0
  started = time.process_time()
  for i in range(len(records)):
    tokens += records[i]["latents"].size // (CHANNELS * np.prod(PATCH))
  return round(tokens / (time.process_time() - started))


def demand(path: str, rounds: int) -> dict:
  """The demo's training step on rows of the stream: how many tokens it takes."""
  config = demo.get_config("dit")
  backbone = config.objective.model.backbone
  backbone.patch, backbone.latent_channels = PATCH, CHANNELS
  batch = next(source(path, "words", LENGTH // 4).open(range(ROWS)))
  skeleton = Skeleton.of(config.objective.make)
  rule = config.optimizer.make(config.num_steps)
  mesh = config.mesh.make()
  with jax.set_mesh(mesh):
    train_state, _ = state.init_sharded(skeleton, rule, 0, mesh, config.ema_decay)
    train_step = jax.jit(
      step.make_train_step(
        config.objective, skeleton, rule, seed=0, ema_decay=config.ema_decay
      )
    )
    measuring.seconds(train_step, train_state, batch)
    times = [measuring.seconds(train_step, train_state, batch) for _ in range(rounds)]
  seconds = statistics.median(times)
  useful = np.count_nonzero(batch.segment_ids)
  return {"step_s": round(seconds, 3), "tokens_per_s": round(useful / seconds)}


def main() -> None:
  kinds = {}
  with tempfile.TemporaryDirectory() as folder:
    for kind in KINDS:
      path = write(pathlib.Path(folder), kind, _CLIPS.value)
      kinds[kind] = {
        "records_alone_tokens_per_s_and_core": records_alone(path),
        **measure(path, kind, _ROUNDS.value),
      }
    needs = demand(str(next(pathlib.Path(folder).glob("words/*/*"))), _ROUNDS.value)
  for found in kinds.values():
    core = found["1 process"]["tokens_per_s_and_core"]
    found["trainings_that_a_core_feeds"] = round(core / needs["tokens_per_s"], 1)
  result = {
    "hardware": measuring.hardware(), "jax": jax.__version__, "clips": _CLIPS.value,
    "batch": f"{ROWS} rows of {LENGTH} tokens", "captions": kinds,
    "step_of_the_demo": needs,
  }  # fmt: skip
  measuring.write("pipeline", _OUT.value, result)
  draw(result, _OUT.value)
  print(table(result))


def table(result: dict) -> str:
  """One line a reader."""
  lines = [f"{'':28}{'tokens/s':>12}{'a core':>12}{'MB/s':>8}{'full':>8}"]
  for kind, found in result["captions"].items():
    alone = found["records_alone_tokens_per_s_and_core"]
    lines.append(f"{kind + ', records alone':28}{'':>12}{alone:>12,}")
    for name, row in found.items():
      if "process" in name:
        lines.append(
          f"{kind + ', ' + name:28}{row['tokens_per_s']:>12,}"
          f"{row['tokens_per_s_and_core']:>12,}{row['mb_per_s']:>8.0f}"
          f"{100 * row['packing_efficiency']:>7.1f}%"
        )
    lines.append(f"  a core feeds {found['trainings_that_a_core_feeds']} of the below")
  needs = result["step_of_the_demo"]["tokens_per_s"]
  lines.append(f"{'training the demo takes':28}{needs:>12,}")
  return "\n".join(lines)


def draw(result: dict, folder: str) -> None:
  """What is supplied, in colors, and what is taken."""
  bars = [
    (f"captions as {kind},\n{name}", found[name]["tokens_per_s"], color)
    for (kind, found), color in zip(result["captions"].items(), measuring.COLORS)
    for name in found if "process" in name
  ]  # fmt: skip
  needs = result["step_of_the_demo"]["tokens_per_s"]
  bars.append(("training the demo's\nmodel takes", needs, measuring.COLORS[3]))
  labels, values, colors = zip(*bars)
  with measuring.plot("pipeline", folder, (6.8, 3.2)) as (axes,):
    drawn = axes.barh(labels, values, color=colors, height=0.6)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(values))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("useful tokens per second, supplied and taken")
    axes.tick_params("y", labelsize=8)


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for pipeline.json and .png.")
  _CLIPS = flags.DEFINE_integer("clips", 256, "Of each dataset.")
  _ROUNDS = flags.DEFINE_integer("rounds", 3, "Turns of the packers, and steps.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
