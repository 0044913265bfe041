"""Parts of a mixture give what they would give alone, whatever becomes of the others."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest

from data_pipelines import ledger, loader, mixture
from sora_jax import configlib
from sora_jax.text import tokenizers
from sora_jax.training import workdir as workdir_lib
from tests.data_pipelines import damage

SIZES = {"images": 149, "videos": 211, "shapes": 170}
ROWS = 4


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
  """Datasets whose latents tell them apart."""
  folder = tmp_path_factory.mktemp("parts")

  def writer(number: int):
    def make(index: int):
      one = damage.example(index)
      return {**one, "latents": 10.0 * number + 0 * one["latents"]}

    return make

  return {
    name: str(damage.write(folder / name, size, make=writer(number)))
    for number, (name, size) in enumerate(SIZES.items())
  }


def packed(path, **changes) -> loader.PackedLatents:
  fields = {
    "path": path, "rows": ROWS, "tokens_per_row": 64, "text_tokens_per_row": 32,
    "packing_bins": 3, "max_clips_per_row": 6,
    "tokenizer": tokenizers.WordTokenizer(vocab_size=64, max_tokens=8),
  }  # fmt: skip
  return loader.PackedLatents(**{**fields, **changes})


def mix(paths, **weights: float) -> mixture.Mixture:
  return mixture.Mixture(parts={
    name: mixture.Part(data=packed(paths[name], seed=len(name)), weight=weight)
    for name, weight in weights.items()
  })  # fmt: skip


def part_of(tokens: np.ndarray) -> str:
  """Whose row it is, by its latents, of which there is one kind."""
  (value,) = {*np.unique(tokens[tokens.any(-1)])} or {0.0}
  return list(SIZES)[int(value) // 10]


def read(stream, steps: int, own: dict) -> None:
  """Appends (part, clip_ids) to the list of each row."""
  for _ in range(steps):
    batch = next(stream)
    for row in range(ROWS):
      name = part_of(batch.tokens[row])
      ids = [int(i) for i in batch.clip_ids[row] if i >= 0]
      assert all(i in stream.numbers[name] for i in ids)
      first = stream.numbers[name].start
      own.setdefault((row, name), []).append([i - first for i in ids])


def continued(stream):
  """The state as a checkpoint has it."""
  return json.loads(json.dumps(stream.get_state()))


def alone(paths, name: str, steps: int) -> dict:
  stream = packed(paths[name], seed=len(name)).open(range(ROWS))
  batches = [next(stream).clip_ids for _ in range(steps)]
  return {
    row: [[int(i) for i in ids[row] if i >= 0] for ids in batches] for row in range(ROWS)
  }


@pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.2, 0.1), (5, 0, 1), (0, 0, 3)])
def test_shares_hold_over_few_turns(weights):
  """Less than three turns too many or too few, in every row and over every stretch."""
  shares = np.cumsum(weights) / np.cumsum(weights)[-1]
  turns = np.array([[mixture.turn(shares, r, k) for k in range(600)] for r in range(16)])
  for part, weight in enumerate(weights):
    share = weight / sum(weights)
    for start, stop in itertools.combinations(range(0, 601, 50), 2):
      got = (turns[:, start:stop] == part).sum(1)
      assert np.abs(got - share * (stop - start)).max() < 3.0
    assert np.abs((turns == part).sum(0) - share * 16).max() < 3.0
    assert (turns == part).any() == (weight > 0)


def test_each_part_is_what_it_is_alone(paths):
  data = mix(paths, images=0.5, videos=0.3, shapes=0.2)
  stream, own = data.open(range(ROWS)), {}
  read(stream, 60, own)
  expected = {name: alone(paths, name, 40) for name in SIZES}
  assert len(own) == ROWS * len(SIZES)
  for (row, name), given in own.items():
    assert given == expected[name][row][: len(given)]
  for name, share in (("images", 0.5), ("videos", 0.3), ("shapes", 0.2)):
    count = sum(len(own[row, name]) for row in range(ROWS))
    assert abs(count / (60 * ROWS) - share) < 0.02


def test_rows_do_not_know_of_processes_and_go_on_exactly(paths):
  data = mix(paths, images=0.5, videos=0.5)
  whole = data.open(range(ROWS))
  batches = [next(whole) for _ in range(12)]
  halves = [data.open(part) for part in (range(1), range(1, ROWS))]
  state = {}
  for half in halves:
    for _ in range(7):
      next(half)
    state.update(continued(half))
  resumed = data.open(range(ROWS))
  resumed.set_state(state)
  for expected in batches[7:]:
    found = next(resumed)
    for field in ("tokens", "clip_ids", "text"):
      np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
  assert resumed.get_state() == whole.get_state()


def test_parts_come_and_go_and_no_clip_is_lost(paths):
  """Weights change, one part is removed, another added, and the first added again."""
  stages = [
    {"images": 1.0, "videos": 1.0}, {"images": 9.0, "videos": 1.0},
    {"videos": 1.0, "shapes": 1.0}, {"images": 1.0, "videos": 0.0, "shapes": 2.0},
    {"images": 1.0, "videos": 1.0, "shapes": 1.0},
  ]  # fmt: skip
  own, state, turns = {}, None, []
  for weights in stages:
    stream = mix(paths, **weights).open(range(ROWS))
    if state:
      stream.set_state(state)
    before = {key: len(given) for key, given in own.items()}
    read(stream, 17, own)
    turns.append({
      name: sum(len(own[row, name]) - before.get((row, name), 0) for row in range(ROWS))
      for name in SIZES if (0, name) in own
    })  # fmt: skip
    state = continued(stream)
  assert all(state[str(row)]["draw"] == 17 * len(stages) for row in range(ROWS))
  assert turns[1]["images"] > 5 * turns[1]["videos"] > 0
  assert turns[2]["images"] == 0 and turns[3]["videos"] == 0
  for name, size in SIZES.items():
    expected = alone(paths, name, max(len(own[row, name]) for row in range(ROWS)))
    assert all(
      own[row, name] == expected[row][: len(own[row, name])] for row in range(ROWS)
    )
    entries = [
      (step, row, ids) for row in range(ROWS) for step, ids in enumerate(own[row, name])
    ]
    at = {row: own["parts"][name] for row, own in state.items()}
    data = packed(paths[name], seed=len(name))
    assert ledger.once_per_epoch(entries, data, size, state=at) == []


def test_names_and_rejected_records_are_of_their_dataset(paths, tmp_path):
  copy = shutil.copytree(paths["videos"], tmp_path / "videos")
  damage.edit(copy, dict.fromkeys(range(100), damage.put("fps", 0.0)))
  stream = mix({**paths, "videos": str(copy)}, images=1.0, videos=1.0).open(range(ROWS))
  read(stream, 30, {})
  rejected = stream.rejected()
  assert len(rejected) > 10 and stream.rejected() == []
  for row in rejected:
    assert (row["dataset"], row["reason"]) == (str(copy), "bad_fps")
    assert row["id"] == f"clip{row['index']}"
  images, videos = stream.numbers["images"], stream.numbers["videos"]
  assert (images, videos) == (range(149), range(149, 360))
  assert stream.names([0, 148, 149, 359, 360]) == [
    f"{paths['images']}#clip0", f"{paths['images']}#clip148", f"{copy}#clip0",
    f"{copy}#clip210", "#360",
  ]  # fmt: skip


def test_what_does_not_go_together_is_named(paths, tmp_path):
  def opened(data):
    return data.open(range(ROWS))

  data = mix(paths, images=1.0, videos=1.0)
  for field, value in (("tokens_per_row", 32), ("rows", 8), ("patch", (1, 2, 2))):
    wrong = packed(paths["videos"], **{field: value})
    data.parts["videos"] = mixture.Part(data=wrong)
    with pytest.raises(ValueError, match=rf"data\.parts must agree in {field}"):
      opened(data)
  data.parts["videos"] = mixture.Part(data=packed("nowhere"))
  with pytest.raises(ValueError, match=r"data\.parts\.videos: no dataset at 'nowhere'"):
    opened(data)
  other = damage.write(tmp_path, 5, make=lambda i: damage.example(i, channels=3))
  data.parts["videos"] = mixture.Part(data=packed(str(other)))
  with pytest.raises(ValueError, match="different kinds of clips"):
    opened(data)
  for weights, message in (
    ({"images": -1.0}, "weight must be at least 0"), ({"images": 0.0}, "every weight is 0"),
    ({"images": float("nan")}, "weight must be"), ({}, "needs a part"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      opened(mix(paths, **weights))
  with pytest.raises(ValueError, match="'items': name it with a plain word"):
    opened(mixture.Mixture(parts={"items": mixture.Part(data=packed("a"))}))


def test_states_of_other_kinds_of_data_are_refused(paths):
  mixed = mix(paths, images=1.0).open(range(ROWS))
  single = packed(paths["images"]).open(range(ROWS))
  with pytest.raises(ValueError, match="is not of a mixture"):
    mixed.set_state(single.get_state())
  with pytest.raises(ValueError, match="of another kind of data"):
    single.set_state(mixed.get_state())
  with pytest.raises(ValueError, match=r"no data position for rows \[3\]"):
    mixed.set_state({"0": {}, "1": {}, "2": {}})


def test_another_dataset_under_an_old_name_is_refused(paths):
  """A part that was removed has its place kept, and that is of its own order only."""
  stream = mix(paths, images=1.0, videos=1.0).open(range(ROWS))
  read(stream, 8, {})
  without = mix(paths, videos=1.0).open(range(ROWS))
  without.set_state(continued(stream))
  read(without, 3, {})
  state = continued(without)
  same = packed(paths["images"], seed=len("images"))
  for change, told in (
    ({"path": paths["shapes"]}, "the number of records was 149, and is 170"),
    ({"seed": 1}, "seed was 6, and is 1"),
    ({"packing_bins": 4}, "packing_bins was 3, and is 4"),
    ({"token_drop": 0.5}, "token_drop was 0.0, and is 0.5"),
  ):
    data = mix(paths, images=1.0, videos=1.0)
    data.parts["images"] = mixture.Part(data=dataclasses.replace(same, **change))
    with pytest.raises(ValueError, match=rf"data\.parts\.images: .*{told} now"):
      data.open(range(ROWS)).set_state(state)
    alone = dataclasses.replace(same, **change).open(range(ROWS))
    with pytest.raises(ValueError, match=told):
      alone.set_state({row: own["parts"]["images"] for row, own in state.items()})
  mix(paths, images=1.0, videos=1.0).open(range(ROWS)).set_state(state)


def test_an_order_that_a_checkpoint_does_not_tell_is_taken(paths):
  stream, again = (packed(paths["images"]).open(range(ROWS)) for _ in range(2))
  next(stream)
  state = {row: {k: v for k, v in own.items() if k != "order"}
           for row, own in continued(stream).items()}  # fmt: skip
  again.set_state(state)
  assert again.get_state() == stream.get_state()


def test_bad_records_of_a_part_name_it(paths, tmp_path):
  copy = shutil.copytree(paths["videos"], tmp_path / "videos")
  # None of those that are asked when it is opened.
  damage.edit(copy, dict.fromkeys(range(100, 130), damage.put("caption", b"\xff")))
  data = mix(paths, images=1.0, videos=1.0)
  data.parts["videos"].data.max_bad_records = 3
  data.parts["videos"].data.path = str(copy)
  opened = data.open(range(ROWS))
  with pytest.raises(ValueError, match=r"^data\.parts\.videos: .* max_bad_records is 3"):
    read(opened, 30, {})


def test_configs_of_mixtures(paths, helpers, tmp_path):
  """They go through config.json, and differ where they differ."""
  data = mix(paths, images=0.5, videos=0.5)
  run = helpers.tiny_config("", data=data)
  again = configlib.from_json(configlib.to_json(run))
  assert again == run and hash(again) == hash(run)
  assert data.rows == ROWS and data.tokens_per_row == 64
  other = dataclasses.replace(run, data=mix(paths, images=0.25, shapes=1.0))
  assert [line.split(":")[0] for line in configlib.differences(run, other)] == [
    "data.parts.images.weight", "data.parts.shapes", "data.parts.videos"
  ]  # fmt: skip
  broken = configlib.to_json(run).replace('"weight": 0.5', '"weight": "much"')
  with pytest.raises(ValueError, match=r"Part\.weight in config\.json is 'much'"):
    configlib.from_json(broken)
  workdir_lib.claim(tmp_path, run)
  workdir_lib.claim(tmp_path, again)
