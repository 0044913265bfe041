"""TFDS builder: clips as latents of a codec, with captions and sizes.

Shapes: t, h, w latents; Z channels.
Used by: data_pipelines/jobs/encode_latents.py.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


def latent_features() -> dict[str, Any]:
  """What every latents dataset holds."""
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


class Latents(tfds.core.GeneratorBasedBuilder):
  """Writes what its generators yield: split name -> function that makes examples."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(
    self, *, splits: Mapping[str, Callable[[], Iterator[dict[str, Any]]]], **kwargs: Any
  ):
    self._splits = splits
    super().__init__(file_format="array_record", **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Clips as latents of a video compression network.",
      features=tfds.features.FeaturesDict(latent_features()),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {name: self._generate_examples(make()) for name, make in self._splits.items()}

  def _generate_examples(self, examples: Iterator[dict[str, Any]]):
    for example in examples:
      yield int(example["index"]), example
