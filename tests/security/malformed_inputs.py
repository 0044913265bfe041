"""Malformed inputs of every kind, each with the call that reads it.

Used by: malformed.py. Next: spoiling.py.
"""

import contextlib
import io
import json
import pathlib
import random
import shutil
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow
import pyarrow.parquet
import safetensors.numpy
from absl import flags
from ml_collections import config_flags
from PIL import Image

from configs import demo
from data_pipelines import (
  captioned_files,
  filters,
  isolated,
  limits,
  loader,
  records,
  spool,
)
from sora_jax import cli, configlib
from sora_jax.generation import prompts, video_files
from sora_jax.serving import studio
from sora_jax.text import tokenizers
from sora_jax.weights import safetensors_files
from tests.data_pipelines import damage
from tests.security.spoiling import spoil_bytes, spoil_json, spoil_text

SECONDS = 20.0  # for one input
Case = tuple[str, str, Callable[[], str]]  # kind, what was done, -> outcome


def media_files(folder: pathlib.Path, rng: random.Random, num: int) -> list[str]:
  """Damaged videos and pictures; what was done to each."""
  field = np.random.default_rng(0).integers(0, 256, (5, 10, 3)).astype(np.uint8)
  frames = field.repeat(8, axis=0).repeat(8, axis=1)
  moving = np.stack([np.roll(frames, 3 * t, axis=1) for t in range(24)])
  video_files.write_mp4(folder / "good.mp4", moving, 8)
  picture = Image.fromarray(frames)
  kinds = ("png", "jpg", "webp", "tiff", "bmp", "gif", "ppm", "jp2", "avif")
  for kind in kinds:
    picture.save(folder / f"good.{kind}")
  more = [Image.fromarray(x) for x in moving[1:4]]
  picture.save(folder / "good.apng", format="png", save_all=True, append_images=more)
  good = {path.suffix: path.read_bytes() for path in sorted(folder.iterdir())}
  done = []
  for i in range(num):
    suffix = ".mp4" if i % 3 == 0 else rng.choice(sorted(good))
    way, content = spoil_bytes(good[suffix], rng)
    (folder / f"{i}{suffix}").write_bytes(content)
    done.append(f"{i}{suffix}: {way}")
  return done


def try_media(folder: pathlib.Path, rng: random.Random, num: int) -> Iterator[list]:
  """Rows of results, through the call that the ingestion makes of every file."""
  done = media_files(folder, rng, num)
  (folder / "spool").mkdir()
  calls = []
  for i, what in enumerate(done):
    name = what.partition(":")[0]
    file = captioned_files.CaptionedFile(path=str(folder / name), name=name)
    arguments = (i, file, str(folder / "spool"), limits.Limits(), filters.Thresholds())
    calls.append((what, arguments))
  bounds = isolated.Bounds(seconds=SECONDS, memory=3 << 29)
  for what, row in isolated.run(spool.fill, calls, workers=1, bounds=bounds):
    if isinstance(row, isolated.Lost):
      yield ["media", what, f"lost: {row}", ""]
    elif row["status"] == "skipped":
      yield ["media", what, "skip", f"{row['reason']}: {row['detail']}"]
    else:
      yield ["media", what, "skip" if row["warnings"] else "fine", str(row["warnings"])]


def manifests(folder: pathlib.Path, rng: random.Random, num: int) -> Iterator[Case]:
  for name in "abcdef":
    (folder / f"{name}.mp4").write_bytes(b"video")
  entries = [{"file": f"{name}.mp4", "caption": f"words of {name}"} for name in "abcdef"]
  parquet = folder.parent / "good.parquet"
  pyarrow.parquet.write_table(pyarrow.Table.from_pylist(entries * 50), parquet)

  def look(path: pathlib.Path) -> str:
    found = captioned_files.find(folder, path)
    bad = sorted({file.problem for file in found if file.problem})
    return f"skip: {', '.join(bad)}" if bad else "fine"

  for i in range(num):
    kind = ("jsonl", "csv", "parquet")[i % 3]
    path = folder.parent / f"{i}.{kind}"
    if kind == "jsonl":
      way, spoilt = spoil_json(entries, rng)
      lines = spoilt if isinstance(spoilt, list) else [spoilt]
      content = "\n".join(map(json.dumps, lines)).encode()
      if rng.random() < 0.4:
        way, content = spoil_text(content.decode(), rng)
    elif kind == "csv":
      rows = "file,caption\n" + "".join(f"{e['file']},{e['caption']}\n" for e in entries)
      way, content = spoil_bytes(rows.encode(), rng)
      if rng.random() < 0.3:
        way, content = "a huge field", rows.encode() + b'"' + b"x" * 300_000
    else:
      way, content = spoil_bytes(parquet.read_bytes(), rng)
    path.write_bytes(content)
    yield "manifest", f"{kind} {way}", lambda path=path: look(path)


def weights(folder: pathlib.Path, rng: random.Random, num: int) -> Iterator[Case]:
  arrays = {f"layer.{i}": np.arange(12.0).reshape(3, 4) for i in range(4)}
  good = safetensors.numpy.save(arrays)
  length = int.from_bytes(good[:8], "little")
  header, data = json.loads(good[8 : 8 + length]), good[8 + length :]
  index = {"metadata": {}, "weight_map": dict.fromkeys(arrays, "m.safetensors")}

  def look(path: pathlib.Path) -> str:
    for tensor in safetensors_files.read(path).values():
      np.asarray(tensor)
    return "fine"

  for i in range(num):
    place = folder / str(i)
    place.mkdir()
    content = good
    if i % 4 == 0:
      way, text = spoil_text(json.dumps(index), rng)
      if rng.random() < 0.5:
        way, tree = spoil_json(index, rng)
        text = json.dumps(tree).encode()
      (place / "m.safetensors.index.json").write_bytes(text)
    elif i % 4 == 1:
      way, content = spoil_bytes(good[: 8 + length], rng)
      content += data
    else:
      way, tree = spoil_json(header, rng)
      text = json.dumps(tree).encode()
      content = len(text).to_bytes(8, "little") + text + data
    (place / "m.safetensors").write_bytes(content)
    yield "safetensors", way, lambda place=place: look(place)


def datasets(folder: pathlib.Path, rng: random.Random, num: int) -> Iterator[Case]:
  good = damage.write(folder / "good", 40, 10)
  names = sorted(path.name for path in good.iterdir() if path.is_file())
  records.PAUSES = (0.0, 0.0, 0.0)

  def look(path: pathlib.Path) -> str:
    config = loader.PackedLatents(
      path=str(path), rows=2, tokens_per_row=64, text_tokens_per_row=32, packing_bins=4,
      max_clips_per_row=6,
      tokenizer=tokenizers.WordTokenizer(vocab_size=64, max_tokens=8),
    )  # fmt: skip
    stream = config.open(range(2))
    for _ in range(12):
      next(stream)
    told = sorted({row["reason"] for row in stream.rejected()})
    return f"skip: {', '.join(told)}" if told else "fine"

  for i in range(num):
    path = folder / f"{i}"
    shutil.copytree(good, path)
    name = rng.choice(names)
    content = (path / name).read_bytes()
    if name.endswith(".json") and rng.random() < 0.5:
      way, tree = spoil_json(json.loads(content), rng)
      (path / name).write_text(json.dumps(tree))
    else:
      way, content = spoil_bytes(content, rng)
      (path / name).write_bytes(content)
    yield "dataset", f"{name} {way}", lambda path=path: look(path)


def configurations(folder: pathlib.Path, rng: random.Random, num: int) -> Iterator[Case]:
  trees = [json.loads(configlib.to_json(demo.get_config(arg))) for arg in ("dit", "vae")]

  def look(path: pathlib.Path) -> str:
    configlib.from_json(configlib.read(path))
    return "fine"

  for i in range(num):
    path = folder / f"{i}.json"
    way, tree = spoil_json(rng.choice(trees), rng)
    path.write_text(json.dumps(tree))
    if i % 3 == 0:
      way, content = spoil_text(json.dumps(rng.choice(trees)), rng)
      path.write_bytes(content)
    yield "config", way, lambda path=path: look(path)


def overrides(rng: random.Random, num: int) -> Iterator[Case]:
  fields = ("num_steps", "objective.model.backbone.width", "data.token_drop", "mesh.fsdp",
            "optimizer.lr.peak", "objective.model.backbone.patch", "ema_decay")  # fmt: skip
  values = ("x", "", "1e999", "[1,2", "{'a': 1}", "None.x", "1.5.2", "(1,", "nan?", "()",
            "__import__('os')", "9" * 5000, "\udcff", "-")  # fmt: skip

  def look(flag: str) -> str:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    flags.register_validator(
      "config", lambda config: hasattr(config, "num_steps"), "no config", values
    )
    said = io.StringIO()
    arguments = ["train", "--config=configs/demo.py:dit", flag]
    if flag.startswith("--config="):
      del arguments[1]
    try:
      with contextlib.redirect_stderr(said), _as_command(arguments):
        cli._parse(arguments, values)
        configlib.check(values["config"].value)  # as the commands do
    except SystemExit as end:
      text = said.getvalue()
      if end.code == 2 and text.startswith("error: ") and "Traceback" not in text:
        raise ValueError(text.splitlines()[0][:400]) from end
      raise AssertionError(text) from end
    return "fine"

  for i in range(num):
    name, value = rng.choice(fields), rng.choice(values)
    flag = f"--config.{name}={value}"
    if i % 4 == 0:
      flag = rng.choice((f"--config.{name}z=1", f"--config.{name}.deeper.still=1",
                         "--config.=1", "--config", "--config=nowhere.py", "--confg=1",
                         "--config.a..b=1", "--config=configs/demo.py:no"))  # fmt: skip
    yield "override", flag[:60], lambda flag=flag: look(flag)


@contextlib.contextmanager
def _as_command(arguments: list[str]) -> Iterator[None]:
  """config_flags looks for its fields among the process's own arguments."""
  before, sys.argv = sys.argv, arguments
  try:
    yield
  finally:
    sys.argv = before


def requests(folder: pathlib.Path, rng: random.Random, num: int) -> Iterator[Case]:
  good = {"prompt": "a red circle moves left", "size": "32x48", "frames": 9, "seed": 3}
  desk = studio.Studio(_Nothing(), folder / "served")

  def look(path: pathlib.Path) -> str:
    assert prompts.read(path)
    return "fine"

  def ask(body: object) -> str:
    desk.submit(body)
    desk._jobs.clear()
    return "fine"

  for i in range(num):
    path = folder / f"{i}.jsonl"
    if i % 3 == 0:
      way, content = spoil_text(json.dumps(good), rng)
      path.write_bytes(content)
      yield "prompts file", way, lambda path=path: look(path)
      continue
    more = {"steps": 20, "guidance": 3.0} if i % 3 == 1 else {"group": "seen"}
    way, tree = spoil_json({**good, **more}, rng)
    path.write_text(json.dumps(tree))
    if i % 3 == 1:
      yield "request", way, lambda tree=tree: ask(tree)
    else:
      yield "prompts file", way, lambda path=path: look(path)


class _Nothing:
  grid = (4, 8, 8)
