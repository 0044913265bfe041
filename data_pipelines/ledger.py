"""Was every clip given once? A proof from the list of what a run was given.

An epoch is one pass over the shuffled dataset of N records: elements e N .. (e + 1) N - 1
of the endless order of rows.py, each record once. Row r of R takes elements r, r + R, ...
of it, so an epoch is shared out among the rows, and where R does not divide N the share
of a row is one larger in some epochs than in others. Every row goes through its elements
in order, at its own pace: rows are not in the same epoch at the same step.

The packer of a row fills `packing_bins` rows of a batch at a time, a set, from the next
elements of the row's order, until one fits in none of them; then it gives them out one a
step, in a shuffled order, and goes on with that element. So the clips of each set, taken
together, are the next elements of the row's order, without a gap and without a repeat;
and at any step, what was read and not given is of the row's last, unfinished set.

Used by: tests, and whoever doubts a run. Next: rows.py, loader.py.
"""

import collections
from collections.abc import Iterable, Sequence, Set
from typing import Any

from data_pipelines import loader
from data_pipelines import rows as rows_lib

Entry = tuple[int, int, Iterable[int]]  # step, row of the global batch, its clip_ids


def once_per_epoch(
  ledger: Iterable[Entry], data: loader.PackedLatents, size: int, *,
  left_out: Set[int] = frozenset(), state: dict[str, Any] | None = None,
) -> list[str]:  # fmt: skip
  """What is wrong with a run's ledger, in words; nothing, if all clips were given once.

  A step that was done again after a kill may be in the ledger again, with the same clips.
  Of a mixture, give the entries of one part, with its own numbers, and its own state.

  Args:
    ledger: of all rows from the first step on, in any order; numbers below 0 are none.
    data: the run's.
    size: N, the records of the dataset.
    left_out: clips that may be missing, because they cannot be used.
    state: the data position after the last step, if that is to be checked as well.
  """
  by_row, wrong = _by_row(ledger)
  seen: dict[int, collections.Counter] = collections.defaultdict(collections.Counter)
  reached = {}  # elements of each row's order that are accounted for
  for row in range(data.rows):
    batches = by_row.get(row, [])
    order = rows_lib.order(size, row, data.rows, data.seed)
    reached[row] = 0
    for first in range(0, len(batches), data.packing_bins):
      given = batches[first : first + data.packing_bins]
      found, due, left = _match(given, order, reached[row], data, size, left_out)
      steps = f"row {row}, its batches {first} to {first + len(given) - 1}"
      if len(given) == data.packing_bins:
        wrong += [f"{steps}: {due} were due, and not given"] if due else []
        reached[row] = max(found, default=reached[row] - 1) + 1
      wrong += [f"{steps}: {left} were given, and not due"] if left else []
      for place, clip in found.items():
        seen[(row + place * data.rows) // size][clip] += 1
    if state is not None:
      at = {
        "parent": {"next_index": reached[row]}, "counter": len(batches),
        "next_row": len(batches) % data.packing_bins, "order": data.order(size),
      }  # fmt: skip
      own = dict(state[str(row)])
      passed = own.pop("left_out", [])  # of the unfinished set
      wrong += [
        f"row {row} leaves out its element {number}, clip {int(order[number])}"
        for number in passed
        if number < reached[row] or int(order[number]) not in left_out
      ]
      if own != at:
        wrong.append(f"row {row} stands at {own}, and should at {at}")
  past = min((row + n * data.rows) // size for row, n in reached.items())
  return wrong + _epochs(seen, past, size, left_out)


def _by_row(ledger: Iterable[Entry]) -> tuple[dict[int, list[list[int]]], list[str]]:
  """(the clips of each row's batches in the order of steps, contradictions)."""
  steps: dict[int, dict[int, list[int]]] = collections.defaultdict(dict)
  wrong = []
  for step, row, clips in ledger:
    own = [int(clip) for clip in clips if clip >= 0]
    if steps[row].setdefault(step, own) != own:
      wrong.append(f"step {step}, row {row}: {steps[row][step]} at first, then {own}")
  by_row = {row: [own[step] for step in sorted(own)] for row, own in steps.items()}
  return by_row, wrong


def _match(
  given: list[list[int]], order: Sequence[int], start: int, data: loader.PackedLatents,
  size: int, left_out: Set[int],
) -> tuple[dict[int, int], list[int], list[int]]:  # fmt: skip
  """Looks for the clips of a set in the row's order, from `start` on.

  Returns (place -> clip of those found, clips before the last of them that were not given,
  clips that were given and not found).
  """
  left = collections.Counter(clip for clips in given for clip in clips)
  found: dict[int, int] = {}
  passed: list[int] = []
  place, most = start, data.packing_bins * data.max_clips_per_row
  # Bounds for what is wrong: no set has more clips, and no search need go on for ever.
  while left.total() and len(passed) <= most and place < start + 10 * size + most:
    clip = int(order[place])
    if left[clip]:
      left[clip] -= 1
      found[place] = clip
    elif clip not in left_out:
      passed.append(clip)
    place += 1
  return found, passed, sorted(left.elements())


def _epochs(
  seen: dict[int, collections.Counter], past: int, size: int, left_out: Set[int]
) -> list[str]:
  """What was given twice in an epoch, or never in one that all rows have passed."""
  wrong = []
  for epoch in range(max([past, *(e + 1 for e in seen)])):
    twice = sorted(clip for clip, count in seen[epoch].items() if count > 1)
    wrong += [f"epoch {epoch}: {twice} were given twice"] if twice else []
    if epoch < past:
      never = sorted(set(range(size)) - set(seen[epoch]) - left_out)
      wrong += [f"epoch {epoch}: {never} were never given"] if never else []
  return wrong
