"""Datasets by many workers, killed anywhere: the same bytes."""

import itertools

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import shards
from data_pipelines.builders import folder_clips

SIZES = {"train": 7, "test": 2}
PLAN = shards.plan(SIZES, per_shard=3)


def test_plan_covers_every_example_once():
  for size, per_shard in itertools.product((1, 5, 6, 100), (1, 3, 100)):
    plan = shards.plan({"train": size, "none": 0}, per_shard)
    assert [i for s in plan for i in range(s.start, s.stop)] == list(range(size))
    assert max(s.stop - s.start for s in plan) <= per_shard
    assert {(s.number, s.count) for s in plan} == {(i, len(plan)) for i in range(len(plan))}


def examples(shard: shards.Shard):
  for i in range(shard.start, shard.stop):
    video = bytes([i] * 27)
    yield {
      "id": f"{shard.split}{i}", "caption": f"number {i}", "fps": 8.0,
      "video": np.frombuffer(video, np.uint8).reshape(1, 3, 3, 3),
    }  # fmt: skip


def dataset(out, made_from="this") -> shards.ShardedDataset:
  return shards.ShardedDataset(out, folder_clips.FolderClips, made_from, PLAN)


def make(out, worker: int = 0, workers: int = 1):
  made = dataset(out)
  for shard in made.unfinished(worker, workers):
    made.write(shard, examples(shard), seen=shard.stop - shard.start)
  return made.finish(total=lambda notes: sum(note["seen"] for note in notes))


def contents(folder) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*")) if path.is_file()
  }  # fmt: skip


def test_it_is_a_dataset(tmp_path):
  path = make(tmp_path / "out")
  builder = tfds.builder_from_directory(str(path))
  for split, size in SIZES.items():
    source = builder.as_data_source(split=split)
    assert [source[i]["id"] for i in range(len(source))] == [
      f"{split}{i}".encode() for i in range(size)
    ]
  assert (tmp_path / "out" / "total.json").read_text() == "9"


def test_workers_in_any_order_give_the_same_bytes(tmp_path):
  make(tmp_path / "one")
  for worker in (2, 0, 3):
    assert make(tmp_path / "many", worker, 4) is None
  assert make(tmp_path / "many", 1, 4) is not None
  assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.parametrize("stop", range(6))
def test_killed_anywhere_it_goes_on(tmp_path, stop):
  """In the middle of shard `stop`, or with all written but not finished."""
  make(tmp_path / "whole")
  made = dataset(tmp_path / "out")
  for number, shard in enumerate(made.unfinished()):
    if number == stop:
      with pytest.raises(KeyboardInterrupt):
        made.write(shard, _interrupted(shard))
      break
    made.write(shard, examples(shard), seen=shard.stop - shard.start)
  assert not (tmp_path / "out").exists()
  left = dataset(tmp_path / "out").unfinished()
  assert left == PLAN[min(stop, len(PLAN)) :]
  make(tmp_path / "out")
  assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def _interrupted(shard: shards.Shard):
  yield next(examples(shard))
  raise KeyboardInterrupt


def test_another_making_begins_anew(tmp_path):
  made = dataset(tmp_path / "out")
  made.write(PLAN[0], examples(PLAN[0]))
  assert dataset(tmp_path / "out", "other").unfinished() == PLAN
  (tmp_path / "thesis").mkdir()
  (tmp_path / "thesis" / "draft.doc").touch()
  with pytest.raises(ValueError, match=r"draft.doc"):
    dataset(tmp_path / "thesis")
