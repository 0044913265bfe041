"""The order of the data: one stream per row of the global batch.

Row r of R reads elements r, r + R, r + 2R, ... of the endlessly reshuffled dataset, and
packs or crops them by itself. So what a row holds at a step depends on the dataset, the
seed and R, never on how many processes or devices share the rows; and the position of
the whole stream is one small state per row. A record that cannot be used leaves a gap
that the row's next record closes; the other rows do not notice.

Used by: data_pipelines/loader.py, crops.py, mixture.py. Next: records.py, ledger.py.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import datasets
from data_pipelines import records as records_lib

Arrays = dict[str, np.ndarray]


def open_source(path: str, split: str) -> Any:
  """A TFDS dataset in ArrayRecord as a random-access source.

  Raises:
    ValueError: there is no such dataset or split, or what describes it is damaged.
  """
  if not path or not (pathlib.Path(path) / "features.json").exists():
    raise ValueError(
      f"no dataset at {path!r} (no features.json there); give --config.data.path the "
      "versioned folder that the builder or job printed"
    )
  datasets.check_description(path)
  try:
    builder = tfds.builder_from_directory(path)
    known = sorted(builder.info.splits)
    source = builder.as_data_source(split=split) if split in known else ()
    size = len(source)
  except Exception as error:  # of many classes: JSON, protocol buffers, TFDS's own
    raise ValueError(
      f"the dataset at {path} cannot be opened, mend or remake its features.json or "
      f"dataset_info.json: {records_lib.printable(str(error))}"
    ) from error
  if split not in known:
    raise ValueError(f"{path} has splits {known}, not {split!r}")
  if not 0 < size < 2**31:
    told = f"has {size:,} records, too many" if size else "is empty"
    raise ValueError(f"split {split!r} of {path} {told}")
  return source


def order(size: int, row: int, num_rows: int, seed: int) -> grain.MapDataset:
  """Row `row`'s endless share of the shuffled places 0 .. size - 1."""
  stream = grain.MapDataset.range(size).seed(seed).shuffle().repeat(None)
  return stream[row::num_rows]


def row_stream(
  records: records_lib.Records, transform: grain.transforms.RandomMap, row: int,
  num_rows: int, seed: int,
) -> grain.IterDataset:  # fmt: skip
  """What `transform` makes of the row's records, without those that are left out."""

  def made(index: int, rng: np.random.Generator) -> Any:
    return records.use(int(index), lambda record: transform.random_map(record, rng))

  stream = order(len(records), row, num_rows, seed).random_map(made, seed=seed)
  # Read in the caller's own thread: rows are many, and the loop prefetches.
  return stream.to_iter_dataset(
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  )


class RowBatches:
  """An `api.BatchIterator` over one Grain iterator per row."""

  def __init__(
    self, rows: range, make_row: Callable[[int], grain.IterDataset],
    collate: Callable[[Arrays], Any], records: records_lib.Records,
  ):  # fmt: skip
    self._iterators = {row: iter(make_row(row)) for row in rows}
    self._collate = collate
    self.records = records

  def __next__(self) -> Any:
    return self._collate(stack([self.draw(row) for row in self._iterators]))

  def draw(self, row: int) -> Arrays:
    """The next of one row alone, which moves no other."""
    return next(self._iterators[row])

  def get_state(self) -> dict[str, Any]:
    return {str(row): it.get_state() for row, it in self._iterators.items()}

  def set_state(self, state: dict[str, Any]) -> None:
    check_rows(self._iterators, state)
    for row, iterator in self._iterators.items():
      try:
        iterator.set_state(state[str(row)])
      except (KeyError, TypeError) as error:
        raise ValueError(
          "the checkpoint's data position is of another kind of data; resume with the "
          "run's own data, which its config.json names"
        ) from error

  def rejected(self) -> list[dict[str, Any]]:
    return self.records.rejected()

  def names(self, clip_ids: list[int]) -> list[str]:
    return [self.records.name(int(number)) for number in clip_ids]


def stack(rows: list[Arrays]) -> Arrays:
  """Rows -> a batch of them."""
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def check_rows(rows: Any, state: dict[str, Any]) -> None:
  """Refuses a state that lacks one of the rows."""
  missing = [row for row in rows if str(row) not in state]
  if missing:
    raise ValueError(
      f"the checkpoint has no data position for rows {missing}: it was written with "
      "another data.rows"
    )
