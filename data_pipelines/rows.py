"""The order of the data: one stream per row of the global batch.

Row r of R reads elements r, r + R, r + 2R, ... of the endlessly reshuffled dataset, and
packs or crops them by itself. So what a row holds at a step depends on the dataset, the
seed and R, never on how many processes or devices share the rows; and the position of
the whole stream is one small state per row.

Used by: data_pipelines/loader.py, data_pipelines/crops.py.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds


def open_source(path: str, split: str) -> Any:
  """A TFDS dataset in ArrayRecord as a random-access source.

  Raises:
    ValueError: there is no such dataset or split.
  """
  if not path or not (pathlib.Path(path) / "features.json").exists():
    raise ValueError(
      f"no dataset at {path!r} (no features.json there); give --config.data.path the "
      "versioned folder that the builder or job printed"
    )
  builder = tfds.builder_from_directory(path)
  if split not in builder.info.splits:
    raise ValueError(f"{path} has splits {sorted(builder.info.splits)}, not {split!r}")
  source = builder.as_data_source(split=split)
  if len(source) == 0:
    raise ValueError(f"split {split!r} of {path} is empty")
  return source


def row_stream(source: Any, row: int, num_rows: int, seed: int) -> grain.MapDataset:
  """Row `row`'s endless share of the shuffled source."""
  stream = grain.MapDataset.source(source).seed(seed).shuffle().repeat(None)
  return stream[row::num_rows]


def to_iterator(stream: grain.MapDataset) -> grain.IterDataset:
  """Reads in the caller's own thread: rows are many, and the loop prefetches."""
  return stream.to_iter_dataset(
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  )


class RowBatches:
  """An `api.BatchIterator` over one Grain iterator per row."""

  def __init__(
    self, rows: range, make_row: Callable[[int], grain.IterDataset],
    collate: Callable[[dict[str, np.ndarray]], Any],
  ):  # fmt: skip
    self._iterators = {row: iter(make_row(row)) for row in rows}
    self._collate = collate

  def __next__(self) -> Any:
    rows = [next(iterator) for iterator in self._iterators.values()]
    return self._collate({k: np.stack([row[k] for row in rows]) for k in rows[0]})

  def get_state(self) -> dict[str, Any]:
    return {str(row): it.get_state() for row, it in self._iterators.items()}

  def set_state(self, state: dict[str, Any]) -> None:
    missing = [row for row in self._iterators if str(row) not in state]
    if missing:
      raise ValueError(
        f"the checkpoint has no data position for rows {missing}: it was written with "
        "another data.rows"
      )
    for row, iterator in self._iterators.items():
      iterator.set_state(state[str(row)])
