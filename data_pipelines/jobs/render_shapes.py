"""Renders the world of moving shapes into a dataset of clips.

  python -m data_pipelines.jobs.render_shapes --out=DIR --num_train=6000

Splits: train and test (the kinds of object that are trained on), heldout (one object of
the kinds that are not). Prints the versioned folder of the dataset.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

from absl import flags

from data_pipelines import datasets, moving_shapes
from data_pipelines.builders import moving_shapes as builder
from sora_jax import cli
from sora_jax.training import metrics

_TEST_FIRST = 10_000_000  # indices beyond any training set


def render(
  out: str | pathlib.Path, world: moving_shapes.MovingShapes, *,
  num_train: int, num_test: int, num_heldout: int,
) -> pathlib.Path:  # fmt: skip
  """The dataset's versioned folder; one that stands already is reused."""
  held_out = dataclasses.replace(world, held_out=True)
  plan = {
    "train": (world, range(num_train)),
    "test": (world, range(_TEST_FIRST, _TEST_FIRST + num_test)),
    "heldout": (held_out, range(num_heldout)),
  }
  made_from = {
    "world": dataclasses.asdict(world),
    "clips": {name: len(indices) for name, (_, indices) in plan.items()},
  }
  dataset = datasets.standing(out, made_from)
  if dataset is None:
    splits = {
      name: functools.partial(_examples, name, *part) for name, part in plan.items()
    }
    with datasets.making(out, made_from) as folder:
      builder.MovingShapes(splits=splits, data_dir=folder).write()
    dataset = datasets.standing(out, made_from)
  return dataset


def _examples(
  name: str, world: moving_shapes.MovingShapes, indices: range
) -> Iterator[datasets.Example]:
  with metrics.progress(len(indices), desc=f"render {name}", unit="clip") as bar:
    for index in indices:
      clip = world.clip(index)
      yield {
        "id": f"shapes-{world.seed}-{name}-{index}", "video": clip.frames,
        "caption": clip.caption, "fps": world.fps, "truth": clip.truth,
      }  # fmt: skip
      bar.update()


def main() -> None:
  world = moving_shapes.MovingShapes(seed=_SEED.value)
  path = render(
    _OUT.value, world, num_train=_NUM_TRAIN.value, num_test=_NUM_TEST.value,
    num_heldout=_NUM_HELDOUT.value,
  )  # fmt: skip
  print(
    f"{_NUM_TRAIN.value} training clips of {len(world.sizes)} sizes and "
    f"{1 + len(world.frames)} durations in {path}"
  )


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder to make.")
  _NUM_TRAIN = flags.DEFINE_integer("num_train", 6000, "Training clips.", lower_bound=1)
  _NUM_TEST = flags.DEFINE_integer("num_test", 256, "Test clips.", lower_bound=1)
  _NUM_HELDOUT = flags.DEFINE_integer("num_heldout", 256, "Held out.", lower_bound=1)
  _SEED = flags.DEFINE_integer("seed", 0, "Of the world.")
  flags.mark_flag_as_required("out")
  cli.run(main)
