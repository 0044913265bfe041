"""Every clip once an epoch, by any number of processes, stopped and resumed anywhere."""

import json
import shutil

import numpy as np
import pytest

from data_pipelines import ledger, loader, records, rows
from sora_jax.text import tokenizers
from tests.data_pipelines import damage

NUM, ROWS, STEPS = 149, 8, 22  # the rows do not divide the dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
  return damage.write(tmp_path_factory.mktemp("good"), NUM)


def packed(path, **changes) -> loader.PackedLatents:
  fields = {
    "path": str(path), "rows": ROWS, "tokens_per_row": 64, "text_tokens_per_row": 32,
    "packing_bins": 3, "max_clips_per_row": 6, "token_drop": 0.3, "seed": 5,
    "tokenizer": tokenizers.WordTokenizer(vocab_size=64, max_tokens=8),
  }  # fmt: skip
  return loader.PackedLatents(**{**fields, **changes})


def run(data, stages: list[tuple[int, int]], steps: int = STEPS):
  """(batches by step, ledger, state) of a run that changes its processes on the way.

  `stages` are (step from which, processes); each begins from a checkpoint of the step.
  """
  batches, entries, state = [], [], None
  for (first, processes), (last, _) in zip(stages, [*stages[1:], (steps, 0)]):
    share = data.rows // processes
    parts = [range(share * i, share * (i + 1)) for i in range(processes)]
    streams = [data.open(part) for part in parts]
    if first:
      for stream in streams:
        stream.set_state(json.loads(json.dumps(state)))
    for step in range(first, last):
      found = [next(stream) for stream in streams]
      batches.append({
        name: np.concatenate([getattr(one, name) for one in found])
        for name in ("tokens", "clip_ids", "segment_ids", "positions", "text")
      })  # fmt: skip
      entries += [(step, row, ids) for row, ids in enumerate(batches[-1]["clip_ids"])]
    state = {key: own for stream in streams for key, own in stream.get_state().items()}
  return batches, entries, state


@pytest.fixture(scope="module")
def alone(dataset):
  return run(packed(dataset), [(0, 1)])


@pytest.mark.parametrize(
  "stages",
  [[(0, 2)], [(0, 4)], [(0, 8)], [(0, 4), (7, 1)], [(0, 1), (1, 8)],
   [(0, 8), (11, 2), (12, 4)], [(0, 2), (5, 8), (17, 1), (18, 4)]],
)  # fmt: skip
def test_the_same_rows_at_every_step(dataset, alone, stages):
  batches, _, state = run(packed(dataset), stages)
  assert len(batches) == STEPS and state == alone[2]
  for found, expected in zip(batches, alone[0]):
    for name in expected:
      np.testing.assert_array_equal(found[name], expected[name])


def test_every_clip_once_an_epoch(dataset, alone):
  _, entries, state = alone
  assert ledger.once_per_epoch(entries, packed(dataset), NUM, state=state) == []
  # Some epochs are over in all rows, so that this says something.
  done = min(s["parent"]["next_index"] for s in state.values())
  assert done * ROWS // NUM >= 3


def test_an_epoch_is_shared_out_among_the_rows():
  """By the definition of it, whatever the sizes."""
  for size, num_rows in ((149, 8), (160, 8), (3, 8), (1, 2)):
    elements = {}
    for row in range(num_rows):
      order = rows.order(size, row, num_rows, 0)
      for k in range(-(-3 * size // num_rows)):
        elements[row + k * num_rows] = int(order[k])
    for epoch in range(3):
      own = [elements[epoch * size + i] for i in range(size)]
      assert sorted(own) == list(range(size))


def test_with_bad_records(dataset, tmp_path):
  copy = shutil.copytree(dataset, tmp_path / "copy")
  bad = {0, 3, 20, 21, 22, 80, 148}
  damage.edit(copy, dict.fromkeys(bad, b"junk"))
  data = packed(copy)
  _, entries, state = run(data, [(0, 4), (7, 1), (19, 8)])
  assert ledger.once_per_epoch(entries, data, NUM, left_out=bad, state=state) == []
  assert bad.isdisjoint({i for _, _, ids in entries for i in ids})
  assert ledger.once_per_epoch(entries, data, NUM, state=state) != []


class Away:
  """A source in which records cannot be read for a while."""

  def __init__(self, inner, away: set[int]):
    self.inner, self.away = inner, away

  def __len__(self):
    return len(self.inner)

  def __getitem__(self, index):
    if index in self.away:
      raise RuntimeError("read() failed: Stale file handle")
    return self.inner[index]


@pytest.mark.parametrize("stop", [4, 5, 6])
def test_records_that_come_back_stay_out_of_the_set_in_hand(dataset, stop, monkeypatch):
  """Else it would be packed otherwise, and clips given twice or never."""
  monkeypatch.setattr(records, "PAUSES", ())
  data, opened = packed(dataset), rows.open_source
  away = {int(rows.order(NUM, 3, ROWS, 5)[place]) for place in range(6, 40, 3)}

  def open_source(path, split):
    source = opened(path, split)
    source.data_source = Away(source.data_source, away)
    return source

  monkeypatch.setattr(rows, "open_source", open_source)
  stream = data.open(range(ROWS))
  entries = [
    (s, r, ids) for s in range(stop) for r, ids in enumerate(next(stream).clip_ids)
  ]
  state = json.loads(json.dumps(stream.get_state()))
  assert any("left_out" in own for own in state.values())
  bad, back = frozenset(away), data.open(range(ROWS))
  assert ledger.once_per_epoch(entries, data, NUM, left_out=bad, state=state) == []
  wrong = {**state, "3": {**state["3"], "left_out": [0]}}
  assert len(ledger.once_per_epoch(entries, data, NUM, left_out=bad, state=wrong)) == 1
  away.clear()
  back.set_state(state)
  assert back.get_state() == state
  entries += [
    (s, r, ids) for s in range(stop, 40) for r, ids in enumerate(next(back).clip_ids)
  ]
  end = back.get_state()
  assert ledger.once_per_epoch(entries, data, NUM, left_out=bad, state=end) == []
  assert bad & {int(i) for _, _, ids in entries for i in ids} == bad
  assert not any("left_out" in own for own in end.values())


def test_a_ledger_with_steps_done_again(dataset, alone):
  _, entries, _ = alone
  data = packed(dataset)
  again = entries + [entry for entry in entries if 10 <= entry[0] < 15]
  assert ledger.once_per_epoch(again, data, NUM) == []
  other = [*entries, (10, 0, [1, 2, 3])]
  (wrong,) = ledger.once_per_epoch(other, data, NUM)
  assert wrong.startswith("step 10, row 0: ") and wrong.endswith("then [1, 2, 3]")


def without(entries, step, row):
  """The ledger of a run that skipped a batch of a row."""
  return [e for e in entries if (e[0], e[1]) != (step, row)]


def changed(entries, step, row, make):
  return [
    (s, r, make([i for i in ids if i >= 0]) if (s, r) == (step, row) else ids)
    for s, r, ids in entries
  ]  # fmt: skip


def test_what_is_wrong_is_found(dataset, alone):
  _, entries, state = alone
  data = packed(dataset)

  def check(entries, **more):
    return ledger.once_per_epoch(entries, data, NUM, **more)

  (given,) = [[i for i in ids if i >= 0] for s, r, ids in entries if (s, r) == (4, 3)]
  lost = check(changed(entries, 4, 3, lambda ids: ids[1:]))
  assert any(f"batches 3 to 5: [{given[0]}] were due" in line for line in lost)
  assert any(line.endswith("were never given") for line in lost)
  twice = check(changed(entries, 4, 3, lambda ids: [*ids, ids[0]]))
  assert any(line.startswith("row 3, its batches 3 to 5") for line in twice)
  foreign = check(changed(entries, 4, 3, lambda ids: [*ids, 1000]))
  assert any("[1000] were given, and not due" in line for line in foreign)
  assert check(without(entries, 4, 3)) != []
  swapped = changed(entries, 4, 3, lambda ids: [*ids[1:], (ids[0] + 1) % NUM])
  assert check(swapped) != []
  state = {**state, "2": {**state["2"], "next_row": 2}}
  assert len(check(entries, state=state)) == 1
