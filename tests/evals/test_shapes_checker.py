"""The checker on rendered truth, on wrong captions, and on what must not pass."""

import numpy as np
import pytest
from scipy import ndimage

from data_pipelines import moving_shapes
from sora_jax.evals import shapes_checker as checker
from sora_jax.evals import shapes_world as world


@pytest.fixture(scope="module")
def clips():
  """(one object, two objects with a relation): videos of every size and duration."""
  rendered = [moving_shapes.MovingShapes(seed=3).clip(i) for i in range(1100)]
  videos = [clip for clip in rendered if len(clip.frames) > 1]
  one = [clip for clip in videos if len(clip.truth["color"]) == 1]
  two = [clip for clip in videos if world.parse_caption(clip.caption)[1]]
  assert len(one) >= 400 and len(two) >= 200
  return one, two


def results(clips, change=lambda frames: frames):
  return [checker.check(change(clip.frames), clip.caption) for clip in clips]


def test_truth_is_read_right(clips):
  for group in clips:
    summary = checker.summarize(results(group))
    for part in ("color", "shape", "motion", "all"):
      assert summary[f"{part}_accuracy"] >= 0.99, (part, summary)


def test_blur_and_noise_do_not_matter(clips):
  rng = np.random.default_rng(0)

  def spoil(frames):
    soft = ndimage.gaussian_filter(frames.astype(np.float32), (0, 0.7, 0.7, 0))
    return np.clip(soft + rng.normal(0, 6, soft.shape), 0, 255).astype(np.uint8)

  summary = checker.summarize(results(clips[0][:150], spoil))
  assert summary["all_accuracy"] >= 0.95, summary


def test_wrong_captions_are_near_chance(clips):
  one = clips[0]
  captions = np.random.default_rng(0).permutation([clip.caption for clip in one])
  wrong = [checker.check(c.frames, text) for c, text in zip(one, captions)]
  summary = checker.summarize(wrong)
  for part, chance in (("color", 1 / 8), ("shape", 1 / 3), ("motion", 1 / 4)):
    # Four standard deviations of a binomial.
    bound = 4 * np.sqrt(chance * (1 - chance) / len(one))
    assert abs(summary[f"{part}_accuracy"] - chance) < bound, (part, summary)
  assert summary["all_accuracy"] < 0.05


def drawn(masks: list[np.ndarray]) -> np.ndarray:
  """A red video on dark gray of masks [T, H, W]."""
  video = np.full((*masks[0].shape, 3), 30.0)
  for mask in masks:
    video += mask[..., None] * (np.asarray(world.COLORS["red"]) - video)
  return video.astype(np.uint8)


def moving(shape: str, y: float, radius: float = 6.0) -> np.ndarray:
  centers = np.stack([np.full(9, y), 10.0 + 2 * np.arange(9)], -1)
  return world.coverage(shape, 40, 40, centers, radius)


def test_strictness():
  caption = "a red square moves right"
  good = checker.check(drawn([moving("square", 20)]), caption)
  assert good["all"], good
  double = checker.check(drawn([moving("square", 9), moving("square", 28)]), caption)
  assert double["motion"] and not double["strict"] and not double["all"]
  square = moving("square", 20)
  wide = np.maximum(square, np.roll(square, 6, 2))
  stretched = checker.check(drawn([wide]), caption)
  assert stretched["motion"] and not stretched["strict"]
  growing = square.copy()
  growing[:4] = moving("square", 20, 3.5)[:4]
  assert not checker.check(drawn([growing]), caption)["strict"]
  flicker = square.copy()
  flicker[::3] = 0
  assert not checker.check(drawn([flicker]), caption)["strict"]


def test_nothing_to_see():
  blank = np.full((5, 32, 32, 3), 40, np.uint8)
  for caption in ("a red circle moves up",
                  "a red circle moves up beside a blue square moves up"):  # fmt: skip
    result = checker.check(blank, caption)
    assert not any(result[part] for part in ("color", "shape", "motion", "all"))


def test_the_relation_counts():
  world_ = moving_shapes.MovingShapes(relation_share=1.0, two_object_share=1.0)
  clip = next(c for c in map(world_.clip, range(50)) if " above " in c.caption)
  assert checker.check(clip.frames, clip.caption)["relation"]
  first, _, second = clip.caption.partition(" above ")
  swapped = checker.check(clip.frames, f"{second} above {first}")
  assert not swapped["relation"] and not swapped["all"]


def test_wilson_interval():
  low, high = checker.wilson_interval(96, 96)
  assert high == 1.0 and 0.95 < low < 0.97
  assert checker.wilson_interval(0, 0) == [0.0, 1.0]
