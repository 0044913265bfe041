"""Datasets with something wrong in them, for tests.

Used by: test_records.py, test_mixture.py, test_exactly_once.py.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines import shards
from data_pipelines.builders import latents

SIZES = ((1, 2, 2), (2, 3, 4), (3, 4, 2), (1, 4, 5), (4, 3, 3))


def example(index: int, channels: int = 4) -> dict[str, Any]:
  rng = np.random.default_rng(index)
  size = SIZES[rng.integers(len(SIZES))]
  return {
    "index": index, "id": f"clip{index}", "caption": f"clip number {index % 7}",
    "latents": rng.normal(size=(*size, channels)).astype(np.float32), "fps": 8.0,
    "video_size": np.int32([1, 8 * size[1], 8 * size[2]]),
  }  # fmt: skip


def write(
  folder: pathlib.Path, num: int, per_shard: int = 10, *, builder=latents.Latents,
  make: Callable[[int], dict[str, Any]] = example,
) -> pathlib.Path:  # fmt: skip
  """The versioned folder of a dataset of several shards."""
  plan = shards.plan({"train": num}, per_shard)
  dataset = shards.ShardedDataset(folder, builder, {"num": num}, plan)
  for shard in plan:
    dataset.write(shard, map(make, range(shard.start, shard.stop)))
  return dataset.finish()


def shard_files(dataset: pathlib.Path) -> list[pathlib.Path]:
  return sorted(dataset.glob("*.array_record-*"))


def edit(dataset: pathlib.Path, edits: dict[int, Any]) -> None:
  """Changes records: a function of the fields of the example, or other bytes for it."""
  first = 0
  for path in shard_files(dataset):
    reader = array_record_module.ArrayRecordReader(str(path))
    raw = reader.read_all()
    reader.close()
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for index, record in enumerate(raw, first):
      change = edits.get(index, record)
      if callable(change):
        message = tf_example_pb2.Example.FromString(record)
        change(message.features.feature)
        change = message.SerializeToString()
      writer.write(change)
    writer.close()
    first += len(raw)


def put(name: str, *values: Any) -> Callable[[Any], None]:
  """An edit that gives a field other values."""

  def change(fields: Any) -> None:
    fields[name].Clear()
    kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
    getattr(fields[name], kind).value.extend(values)

  return change


def drop(*names: str) -> Callable[[Any], None]:
  """An edit that takes fields away."""

  def change(fields: Any) -> None:
    for name in names:
      del fields[name]

  return change


def latents_of(values: np.ndarray) -> Callable[[Any], None]:
  """An edit that gives a clip other latents."""

  def change(fields: Any) -> None:
    put("latents/shape", *values.shape)(fields)
    put("latents/value", values.tobytes())(fields)

  return change
