"""Clips -> fixed-size crops, the batches that train the video compression network.

Used by: configs/. Next: rows.py, sora_jax/objectives/autoencoder.py.
"""

from typing import Any

import grain
import numpy as np

from data_pipelines import rows as rows_lib
from sora_jax.configlib import config


@config
class ClipCrops:
  """A dataset of clips as batches {"video": uint8 [rows, T, H, W, 3]}."""

  path: str = ""  # versioned folder of the clips dataset
  split: str = "train"
  rows: int = 32  # of the global batch
  crop: tuple[int, int, int] = (9, 24, 24)  # frames, height, width
  seed: int = 0

  def open(self, rows: range) -> rows_lib.RowBatches:
    """The stream of the given rows of the global batch."""
    source = rows_lib.open_source(self.path, self.split)

    def make_row(row: int) -> grain.IterDataset:
      stream = rows_lib.row_stream(source, row, self.rows, self.seed)
      stream = stream.random_map(RandomCrop(self.crop), seed=self.seed)
      return rows_lib.to_iterator(stream)

    return rows_lib.RowBatches(rows, make_row, lambda batch: batch)


class RandomCrop(grain.transforms.RandomMap):
  """A random box of a clip; where the clip is smaller, its edge is repeated.

  An image becomes a still video. The network is causal, so the first latent of every
  video is that of an image anyway.
  """

  def __init__(self, crop: tuple[int, int, int]):
    self._crop = crop

  def random_map(
    self, record: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    video = record["video"]
    for axis, size in enumerate(self._crop):
      start = rng.integers(0, max(video.shape[axis] - size, 0) + 1)
      index = np.minimum(np.arange(start, start + size), video.shape[axis] - 1)
      video = np.take(video, index, axis)
    return {"video": video}
