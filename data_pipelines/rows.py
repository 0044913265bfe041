"""The order of the data: one stream per row of the global batch.

Row r of R reads elements r, r + R, r + 2R, ... of the endlessly reshuffled dataset, and
packs or crops them by itself. So what a row holds at a step depends on the dataset, the
seed and R, never on how many processes or devices share the rows; and the position of
the whole stream is one small state per row. A record that cannot be used leaves a gap
that the row's next record closes; the other rows do not notice.

The state of a row is Grain's, and with it

  order      what it is a position of: with other values, it would be one of other clips
  left_out   elements since Grain's position that were left out, where there are any

A packed row is resumed by packing its unfinished set anew. A record that could not be
read for a while, and can be now, would change that set: it stays left out of it. (The
other way round nothing helps: a clip of the set that cannot be read any more is missing,
and others of the set may be given twice or not at all.)

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
      f"no dataset at {path!r} (no features.json there): its path is that of the "
      "versioned folder that the builder or job printed"
    )
  datasets.check_description(path)
  try:
    builder = tfds.builder_from_directory(path)
    known = sorted(builder.info.splits)
    source = builder.as_data_source(split=split) if split in known else ()
    size = len(source)
  except MemoryError:
    raise
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
  num_rows: int, seed: int, left_out: set[int],
) -> grain.IterDataset:  # fmt: skip
  """What `transform` makes of the row's records, without those that are left out.

  Elements of the order whose records are bad are added to `left_out`, and those that are
  there already are left out, whatever has become of them.
  """

  def made(element: tuple[int, int], rng: np.random.Generator) -> Any:
    number, index = element
    # What is left out already is tried, so that it is told of where it is still bad.
    arrays = records.use(index, lambda record: transform.random_map(record, rng))
    if records.is_bad(index):
      left_out.add(number)
    return None if number in left_out else arrays

  numbered = order(len(records), row, num_rows, seed).map_with_index(
    lambda number, index: (int(number), int(index))
  )
  stream = numbered.random_map(made, seed=seed)
  # Read in the caller's own thread: rows are many, and the loop prefetches.
  return stream.to_iter_dataset(
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  )


class RowBatches:
  """An `api.BatchIterator` over one Grain iterator per row."""

  def __init__(
    self, rows: range, make_row: Callable[[int, set[int]], grain.IterDataset],
    collate: Callable[[Arrays], Any], records: records_lib.Records,
    order: dict[str, Any],
  ):  # fmt: skip
    """`make_row` is given the row, and what `row_stream` calls `left_out`."""
    self._left_out: dict[int, set[int]] = {row: set() for row in rows}
    self._iterators = {row: iter(make_row(row, self._left_out[row])) for row in rows}
    self._collate, self._order = collate, order
    self.records = records

  def __next__(self) -> Any:
    return self._collate(stack([self.draw(row) for row in self._iterators]))

  def draw(self, row: int) -> Arrays:
    """The next of one row alone, which moves no other."""
    return next(self._iterators[row])

  def get_state(self) -> dict[str, Any]:
    return {str(row): self._state(row) for row in self._iterators}

  def _state(self, row: int) -> dict[str, Any]:
    state = self._iterators[row].get_state()
    first = state.get("parent", state)["next_index"]
    left_out = self._left_out[row]
    left_out -= {number for number in left_out if number < first}
    told = {"left_out": sorted(left_out)} if left_out else {}
    return {**state, "order": self._order, **told}

  def set_state(self, state: dict[str, Any]) -> None:
    check_rows(self._iterators, state)
    for row, iterator in self._iterators.items():
      try:
        own = dict(state[str(row)])
        found, left_out = dict(own.pop("order", {})), set(own.pop("left_out", ()))
        iterator.set_state(own)
      except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
          "the checkpoint's data position is of another kind of data; resume with the "
          "run's own data, which its config.json names"
        ) from error
      check_order(found, self._order)
      self._left_out[row].clear()
      self._left_out[row].update(left_out)

  def rejected(self) -> list[dict[str, Any]]:
    return self.records.rejected()

  def names(self, clip_ids: list[int]) -> list[str]:
    return [self.records.name(int(number)) for number in clip_ids]


def stack(rows: list[Arrays]) -> Arrays:
  """Rows -> a batch of them."""
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def check_order(found: dict[str, Any], own: dict[str, Any]) -> None:
  """Refuses a position in another order; one that does not say so is taken."""
  for field, value in own.items():
    if found.get(field, value) != value:
      what = "the number of records" if field == "records" else field
      raise ValueError(
        f"the checkpoint's data position is of another order: {what} was "
        f"{found[field]!r}, and is {value!r} now. Go on with what it was; or begin anew "
        "with this, in another workdir or as a part of a mixture with another name"
      )


def check_rows(rows: Any, state: dict[str, Any]) -> None:
  """Refuses a state that lacks one of the rows."""
  missing = [row for row in rows if str(row) not in state]
  if missing:
    raise ValueError(
      f"the checkpoint has no data position for rows {missing}: it was written with "
      "another data.rows"
    )
