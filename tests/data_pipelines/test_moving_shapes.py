"""The procedural world: deterministic, and true to its own truth."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import moving_shapes
from data_pipelines.jobs import render_shapes, write_prompts
from sora_jax.evals import shapes_world as world


@pytest.fixture(scope="module")
def clips():
  return [moving_shapes.MovingShapes().clip(i) for i in range(400)]


def test_a_clip_is_a_function_of_seed_and_index(clips):
  again = moving_shapes.MovingShapes().clip(17)
  np.testing.assert_array_equal(again.frames, clips[17].frames)
  assert again.caption == clips[17].caption
  other = moving_shapes.MovingShapes(seed=1).clip(17)
  assert other.frames.shape != again.frames.shape or (other.frames != again.frames).any()


def test_variety(clips):
  shapes = {clip.frames.shape for clip in clips}
  sizes = {shape[1:3] for shape in shapes}
  assert len(sizes) >= 5 and len({shape[0] for shape in shapes}) >= 4
  assert {np.sign(h - w) for h, w in sizes} == {-1, 0, 1}
  assert {len(clip.truth["color"]) for clip in clips} == {1, 2}


def test_truth_is_what_is_drawn(clips):
  for clip in clips[:150]:
    objects, _ = world.parse_caption(clip.caption)
    _, height, width, _ = clip.frames.shape
    truth = clip.truth
    for i, spec in enumerate(objects):
      assert list(world.COLORS)[truth["color"][i]] == spec.color
      assert world.SHAPES[truth["shape"][i]] == spec.shape
      place, extent = truth["position"][i], truth["radius"][i] * world.extent(spec.shape)
      assert (place - extent >= -0.01).all()
      assert (place + extent <= np.asarray([height, width]) + 0.01).all()
      if len(clip.frames) > 1:
        np.testing.assert_allclose(
          np.diff(place, axis=0), truth["velocity"][i, 1:], atol=1e-4
        )
        assert np.abs(place[-1] - place[0]).max() >= 2.99
        direction = np.sign(np.round(truth["velocity"][i, 0], 4))
        np.testing.assert_array_equal(direction, world.MOTIONS[spec.motion])
    # The nearest object has its own color in the middle.
    t, nearest = len(clip.frames) // 2, len(objects) - 1
    y, x = truth["position"][nearest, t].astype(int)
    color = world.COLORS[objects[nearest].color]
    assert np.abs(clip.frames[t, y, x].astype(int) - color).max() <= 1


def test_occlusion_is_recorded_and_lanes_are_free_of_it(clips):
  apart = [c for c in clips if world.parse_caption(c.caption)[1]]
  assert apart and all(c.truth["visibility"].min() > 0.999 for c in apart)
  free = [c for c in clips if " and " in c.caption]
  assert min(c.truth["visibility"].min() for c in free) < 0.7
  assert all(c.truth["visibility"][-1].min() > 0.999 for c in free), "the nearest one"


def kinds(caption: str) -> set[tuple]:
  objects, _ = world.parse_caption(caption)
  return {(o.color, o.shape, o.motion) for o in objects if o.motion}


def test_held_out_kinds_are_never_trained_on(clips):
  assert not set().union(*(kinds(c.caption) for c in clips)) & world.HELD_OUT
  other = moving_shapes.MovingShapes(held_out=True)
  seen = set().union(*(kinds(other.clip(i).caption) for i in range(150)))
  assert seen == world.HELD_OUT


def test_prompts_are_balanced_and_of_their_group():
  lines = write_prompts.shapes_prompts(56)
  groups = {
    name: [line["prompt"] for line in lines if line["group"] == name]
    for name in write_prompts.GROUPS
  }
  held = [kind for prompt in groups["heldout"] for kind in kinds(prompt)]
  assert {k: held.count(k) for k in world.HELD_OUT} == dict.fromkeys(world.HELD_OUT, 4)
  assert all(kinds(prompt) <= world.TRAINED for prompt in groups["seen"])
  assert all(world.parse_caption(prompt)[1] for prompt in groups["two objects"])
  trained = set(moving_shapes.MovingShapes().sizes)
  new = {x["size"] for x in lines} - {f"{h}x{w}" for h, w in trained}
  durations = {x["frames"] for x in lines} - {1, *moving_shapes.MovingShapes().frames}
  assert new and durations, "sizes and durations that were never trained on"


def test_the_dataset_holds_the_clips_and_is_made_once(tmp_path):
  make = lambda num: render_shapes.render(  # noqa: E731
    tmp_path / "clips", moving_shapes.MovingShapes(), num_train=num, num_test=3,
    num_heldout=4,
  )  # fmt: skip
  path = make(12)
  builder = tfds.builder_from_directory(str(path))
  assert {k: v.num_examples for k, v in builder.info.splits.items()} == {
    "train": 12, "test": 3, "heldout": 4
  }  # fmt: skip
  source = builder.as_data_source("train")
  for i in range(12):
    clip, record = moving_shapes.MovingShapes().clip(i), source[i]
    np.testing.assert_array_equal(record["video"], clip.frames)
    assert record["caption"].decode() == clip.caption
    for name, value in clip.truth.items():
      np.testing.assert_array_equal(record["truth"][name], value)
  stamp = (path / "features.json").stat().st_mtime_ns
  assert make(12) == path and (path / "features.json").stat().st_mtime_ns == stamp
  make(5)
  assert tfds.builder_from_directory(str(path)).info.splits["train"].num_examples == 5


def test_a_folder_with_other_files_is_left_alone(tmp_path):
  (tmp_path / "thesis.txt").write_text("years of work")
  with pytest.raises(ValueError, match="holds other files"):
    render_shapes.render(
      tmp_path, moving_shapes.MovingShapes(), num_train=1, num_test=1, num_heldout=1
    )
  assert (tmp_path / "thesis.txt").exists()
