"""Several datasets in one run: whose turn it is, row by row of the batch.

Every part packs its own rows, of its own clips only, and has its own position in every
row of the global batch. The mixture says no more than whose turn it is: the k-th time
that row r is filled, by where

  u = frac(r sqrt(2) + k / phi)    (phi: the golden ratio)

falls among the weights, laid end to end in the order of the parts' names. That sequence
fills every stretch evenly, so that shares hold over few steps and among few rows, and not
only on average. Weights are shares of rows, which is of tokens, since packed rows are all
about full; they need not add up to 1.

The position of row r is {"draw": k, "parts": {name: position of that part in row r}}.
So what a part gives in row r, over all of its turns, is what it would give alone, in the
same order, whatever becomes of the others:

  a part that is added   begins at its beginning
  a part that is removed keeps its position in the checkpoints, and goes on from there
                         when it is added again under its name; with another
                         number of records, seed, ... it is refused: name it otherwise
  other weights          change whose turn it is from then on, and no position

No clip of any part is lost or given twice by that. A weight of 0 leaves a part in its
place without a turn. What decides on a part's packing (its dataset, seed, rows, sizes,
`packing_bins`, `token_drop`) must stay, as in a run without a mixture.

A clip's number in `clip_ids` is its place in its dataset, plus the sizes of the datasets
of all parts before it in the order of names: it is of this mixture, and another one may
number clips otherwise. `names` tells them apart for good.

Every row of every part holds its `packing_bins` unfinished rows in memory, once it has
had a turn: with many parts, fewer bins.
Used by: configs that users write. Next: loader.py, rows.py.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

from data_pipelines import loader
from data_pipelines import rows as rows_lib
from sora_jax import api
from sora_jax.configlib import config

# What the rows of all parts must agree in, to stand in one batch.
_SAME = ("rows", "tokens_per_row", "text_tokens_per_row", "max_clips_per_row", "patch",
         "tokenizer")  # fmt: skip
# Of 2^64, the parts that 1 / phi and sqrt(2) - 1 are, made odd: whole numbers are the
# same on every machine.
_PHI, _ROOT, _ONE = 0x9E3779B97F4A7C15, 0x6A09E667F3BCC909, 1 << 64


@config
class Part:
  """One dataset of a mixture."""

  data: loader.PackedLatents
  weight: float = 1.0  # its share of the rows, among the weights of all parts


@config
class Mixture:
  """Parts by name, as one `api.BatchSource`.

  --config.data.parts.NAME.weight and --config.data.parts.NAME.data.FIELD reach in.
  """

  # Not of the hash, because a dict has none; of the comparison it is.
  parts: dict[str, Part] = dataclasses.field(hash=False)

  def open(self, rows: range) -> "MixedBatches":
    """The stream of the given rows of the global batch.

    Raises:
      ValueError: the parts do not go together, or one of them cannot be opened.
    """
    self._check()
    opened = {}
    for name in sorted(self.parts):
      try:
        opened[name] = self.parts[name].data.open(rows)
      except ValueError as error:
        raise ValueError(f"data.parts.{name}: {error}") from error
    return MixedBatches(
      rows, opened, [self.parts[name].weight for name in sorted(self.parts)]
    )

  def _check(self) -> None:
    if not self.parts:
      raise ValueError("data.parts is empty: a mixture needs a part")
    for name, part in self.parts.items():
      # Flags reach parts as attributes, and a dict's own come first.
      if not name.isidentifier() or hasattr(self.parts, name):
        raise ValueError(f"data.parts has a part {name!r}: name it with a plain word")
      if not 0.0 <= part.weight < float("inf"):
        raise ValueError(f"data.parts.{name}.weight must be at least 0, not {part.weight}")
    if not any(part.weight for part in self.parts.values()):
      raise ValueError("data.parts: every weight is 0; give one part a turn")
    for field in _SAME:
      values = {name: getattr(part.data, field) for name, part in self.parts.items()}
      if any(value != self._one(field) for value in values.values()):
        raise ValueError(
          f"data.parts must agree in {field}, whose rows stand in one batch: {values}"
        )

  def _one(self, field: str) -> Any:
    return getattr(next(iter(self.parts.values())).data, field)

  @property
  def rows(self) -> int:
    return self._one("rows")

  @property
  def tokens_per_row(self) -> int:
    return self._one("tokens_per_row")

  @property
  def text_tokens_per_row(self) -> int:
    return self._one("text_tokens_per_row")

  @property
  def max_clips_per_row(self) -> int:
    return self._one("max_clips_per_row")


class MixedBatches:
  """An `api.BatchIterator` that takes turns among others."""

  def __init__(
    self, rows: range, parts: dict[str, rows_lib.RowBatches], weights: list[float]
  ):
    common = {name: part.records.common for name, part in parts.items()}
    if any(one != next(iter(common.values())) for one in common.values()):
      raise ValueError(f"data.parts hold different kinds of clips: {common}")
    sizes = [len(part.records) for part in parts.values()]
    if sum(sizes) >= 2**31:
      raise ValueError(f"data.parts have {sum(sizes):,} clips, more than have numbers")
    ends = list(itertools.accumulate(sizes))
    self.numbers = {
      name: range(end - size, end) for name, size, end in zip(parts, sizes, ends)
    }  # the clips of each part, by what stands in `clip_ids`
    self._parts = parts
    self._shares = np.cumsum(weights) / np.cumsum(weights)[-1]
    self._draws = dict.fromkeys(rows, 0)
    self._beginnings = {name: part.get_state() for name, part in parts.items()}
    self._removed: dict[int, dict[str, Any]] = {row: {} for row in rows}

  def __next__(self) -> api.PackedTokens:
    return loader.collate(rows_lib.stack([self._draw(row) for row in self._draws]))

  def _draw(self, row: int) -> rows_lib.Arrays:
    name = list(self._parts)[turn(self._shares, row, self._draws[row])]
    try:
      arrays = self._parts[name].draw(row)
    except ValueError as error:
      raise ValueError(f"data.parts.{name}: {error}") from error
    self._draws[row] += 1
    # Where there is no clip, there is a zero.
    first = np.where(arrays["clip_ids"] > 0, self.numbers[name].start, 0)
    return {**arrays, "clip_ids": arrays["clip_ids"] + first.astype(np.int32)}

  def get_state(self) -> dict[str, Any]:
    states = {name: part.get_state() for name, part in self._parts.items()}
    return {
      str(row): {
        "draw": draw,
        "parts": {
          **self._removed[row], **{name: own[str(row)] for name, own in states.items()}
        },
      }
      for row, draw in self._draws.items()
    }  # fmt: skip

  def set_state(self, state: dict[str, Any]) -> None:
    rows_lib.check_rows(self._draws, state)
    if not all({"draw", "parts"} == set(state[str(row)]) for row in self._draws):
      raise ValueError(
        "the checkpoint's data position is not of a mixture; resume with the run's own "
        "data, which its config.json names"
      )
    for row in self._draws:
      self._draws[row] = state[str(row)]["draw"]
      found = state[str(row)]["parts"]
      self._removed[row] = {k: v for k, v in found.items() if k not in self._parts}
    for name, part in self._parts.items():
      position = {
        str(row): state[str(row)]["parts"].get(name, self._beginnings[name][str(row)])
        for row in self._draws
      }
      try:
        part.set_state(position)
      except ValueError as error:
        raise ValueError(f"data.parts.{name}: {error}") from error

  def rejected(self) -> list[dict[str, Any]]:
    return [row for part in self._parts.values() for row in part.rejected()]

  def names(self, clip_ids: list[int]) -> list[str]:
    return [self._name(int(number)) for number in clip_ids]

  def _name(self, number: int) -> str:
    for name, own in self.numbers.items():
      if number in own:
        (told,) = self._parts[name].names([number - own.start])
        return told
    return f"#{number}"


def turn(shares: np.ndarray, row: int, draw: int) -> int:
  """Which part has the `draw`-th turn of a row; `shares` are cumulative, up to 1."""
  u = (row * _ROOT + draw * _PHI) % _ONE / _ONE
  # A u that rounds to 1 is the last part's that has a weight.
  return min(int(np.searchsorted(shares, u, side="right")), int(np.argmax(shares >= 1.0)))
