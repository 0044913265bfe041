"""TFDS builder: clips as latents of a codec, with captions and sizes.

Shapes: t, h, w latents; Z channels.
Used by: data_pipelines/jobs/encode_latents.py. Read by: data_pipelines/loader.py.
"""

from typing import Any

import ml_dtypes
import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import datasets


class Latents(datasets.Generated):
  """Latents of their true shapes."""

  DESCRIPTION = "Clips as latents of a video compression network."

  @staticmethod
  def features() -> dict[str, Any]:
    return {
      "index": np.int64,  # of the clip in its split
      "id": tfds.features.Text(),  # of the clip
      "latents": tfds.features.Tensor(
        shape=(None, None, None, None), dtype=np.float32, encoding="bytes"
      ),  # [t, h, w, Z], normalized
      "caption": tfds.features.Text(),
      "fps": tfds.features.Scalar(np.float32),
      "video_size": tfds.features.Tensor(shape=(3,), dtype=np.int32),  # frames, H, W
    }


class LatentsWithText(Latents):
  """Latents, and captions embedded beforehand by a published text encoder."""

  @staticmethod
  def features() -> dict[str, Any]:
    text = tfds.features.Tensor(
      shape=(None, None), dtype=ml_dtypes.bfloat16, encoding="bytes"
    )  # [m, D], without padding
    return {**Latents.features(), "text": text}
