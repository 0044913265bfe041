"""TFDS datasets written shard by shard, by any number of workers, and resumed.

Every shard is a function of its number alone. It appears under its name when it is
complete, and is never written again, so that a job that is killed anywhere, or runs on
other machines the next time, ends with the same bytes. Whoever finds all shards there
writes the metadata and gives the dataset its name.

  OUT.partial/made_from.json       what it is made from; if it is not that, all over
  OUT.partial/NAME/VERSION/        finished shards, each with a .json of its sizes
  OUT/NAME/VERSION/                the dataset, for tfds.builder_from_directory

Used by: jobs/encode_latents.py. Next: datasets.py.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tensorflow_datasets.core import example_serializer

from data_pipelines import datasets

_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclasses.dataclass(frozen=True)
class Shard:
  """Examples [start, stop) of a split."""

  split: str
  number: int
  count: int  # of shards of the split
  start: int
  stop: int

  def file_name(self, dataset: str) -> str:
    """As TFDS expects it."""
    name = f"{dataset}-{self.split}.array_record"
    return f"{name}-{self.number:05d}-of-{self.count:05d}"


def plan(sizes: Mapping[str, int], per_shard: int) -> list[Shard]:
  """The shards of splits of the given sizes, of about equal lengths."""
  shards = []
  for split, size in sizes.items():
    count = -(-size // per_shard)
    bounds = [size * i // max(1, count) for i in range(count + 1)]
    shards += [
      Shard(split, i, count, bounds[i], bounds[i + 1]) for i in range(count)
    ]
  return shards


class ShardedDataset:
  """A dataset in the making; one object per worker."""

  def __init__(
    self, out: str | pathlib.Path, builder: type[datasets.Generated], made_from: Any,
    shards: list[Shard],
  ):  # fmt: skip
    """Continues what stands of the same `made_from`, and removes anything else.

    Raises:
      ValueError: `out` holds something that was not made here, and would be lost.
    """
    self.shards = shards
    self._out = pathlib.Path(out).absolute()
    self._made_from = made_from
    self._features = tfds.features.FeaturesDict(builder.features())
    self._name, self._description = builder.name, builder.DESCRIPTION
    self._version = str(builder.VERSION)
    self._partial = datasets.continued(self._out, made_from)
    self._folder = self._partial / self._name / self._version
    self._folder.mkdir(parents=True, exist_ok=True)

  def unfinished(self, worker: int = 0, workers: int = 1) -> list[Shard]:
    """This worker's shards that are still to be written, in their order."""
    return [s for s in self.shards[worker::workers] if not self._is_finished(s)]

  def write(
    self, shard: Shard, examples: Iterator[datasets.Example], **described: Any
  ) -> None:
    """Writes one shard whole; `described` goes into its .json, read by `finish`."""
    serializer = example_serializer.ExampleSerializer(
      self._features.get_serialized_info()
    )
    path = self._path(shard)
    # Of this process alone, in case two of them were given the same shard.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    writer = ArrayRecordWriter(str(temporary), "group_size:1")
    count = size = 0
    for example in examples:
      message = serializer.get_tf_example(self._features.encode_example(example))
      # The order of its fields would otherwise differ from process to process.
      record = message.SerializeToString(deterministic=True)
      writer.write(record)
      count, size = count + 1, size + len(record)
    writer.close()
    assert count == shard.stop - shard.start, (count, shard)
    note = temporary.with_name(f"{temporary.name}.json")
    note.write_text(json.dumps({"examples": count, "bytes": size, **described}))
    note.replace(self._note(shard))
    temporary.replace(path)

  def finish(self, **files: Any) -> pathlib.Path | None:
    """The versioned folder of the dataset, or None while shards are missing.

    `files` are written beside the dataset: name -> what is given the notes of all
    shards and returns JSON.
    """
    notes = {}
    for shard in self.shards:
      if not self._is_finished(shard):
        # Somebody else may have given the dataset its name just now.
        return datasets.standing(self._out, self._made_from)
      notes[shard] = json.loads(self._note(shard).read_text())
    splits = []
    for split in dict.fromkeys(shard.split for shard in self.shards):
      own = [notes[shard] for shard in self.shards if shard.split == split]
      template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(self._folder), dataset_name=self._name, split=split,
        filetype_suffix="array_record", template=_TEMPLATE,
      )  # fmt: skip
      splits.append(
        tfds.core.SplitInfo(
          name=split, shard_lengths=[note["examples"] for note in own],
          num_bytes=sum(note["bytes"] for note in own), filename_template=template,
        )
      )
    tfds.folder_dataset.write_metadata(
      data_dir=str(self._folder), features=self._features, split_infos=splits,
      filename_template=_TEMPLATE, check_data=False, description=self._description,
    )  # fmt: skip
    for name, make in files.items():
      text = json.dumps(make(list(notes.values())), indent=1)
      (self._partial / f"{name}.json").write_text(text)
    for leftover in self._folder.glob("*.partial*"):
      leftover.unlink()
    datasets.publish(self._partial, self._out)
    return datasets.standing(self._out, self._made_from)

  def _path(self, shard: Shard) -> pathlib.Path:
    return self._folder / shard.file_name(self._name)

  def _note(self, shard: Shard) -> pathlib.Path:
    notes = self._partial / "shards"
    notes.mkdir(exist_ok=True)
    return notes / f"{shard.file_name(self._name)}.json"

  def _is_finished(self, shard: Shard) -> bool:
    return self._path(shard).exists() and self._note(shard).exists()
