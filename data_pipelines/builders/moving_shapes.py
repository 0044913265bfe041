"""TFDS builder: the world of moving shapes, with the truth of every object.

Shapes: T frames, H, W pixels, N objects.
Used by: data_pipelines/jobs/render_shapes.py.
"""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import datasets, schema


class MovingShapes(datasets.Generated):
  """Rendered clips; `truth` is described at `moving_shapes.MovingShapes.clip`."""

  DESCRIPTION = "Procedural captioned clips of moving shapes."

  @staticmethod
  def features() -> dict[str, Any]:
    number = tfds.features.Tensor(shape=(None,), dtype=np.int32)
    truth = {
      "position": _floats(None, None, 2),
      "velocity": _floats(None, None, 2),
      "visibility": _floats(None, None),
      "radius": tfds.features.Tensor(shape=(None,), dtype=np.float32),
      "color": number,
      "shape": number,
      "motion": number,
      "depth": number,
    }
    return {**schema.clip_features(), "truth": tfds.features.FeaturesDict(truth)}


def _floats(*shape: int | None) -> tfds.features.Tensor:
  return tfds.features.Tensor(shape=shape, dtype=np.float32, encoding="bytes")
