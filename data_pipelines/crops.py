"""Clips -> fixed-size crops, the batches that train the video compression network.

Used by: configs/. Next: rows.py, records.py, sora_jax/objectives/autoencoder.py.
"""

from typing import Any

import grain
import numpy as np

from data_pipelines import checks, records
from data_pipelines import rows as rows_lib
from sora_jax.configlib import config


@config
class ClipCrops:
  """A dataset of clips as batches {"video": uint8 [rows, T, H, W, 3]}."""

  path: str = ""  # versioned folder of the clips dataset
  split: str = "train"
  rows: int = 32  # of the global batch
  crop: tuple[int, int, int] = (9, 24, 24)  # frames, height, width
  # Left out before the run stops (checks.py): by one process, since it was started.
  max_bad_records: int = 100
  seed: int = 0

  def open(self, rows: range) -> rows_lib.RowBatches:
    """The stream of the given rows of the global batch.

    Raises:
      ValueError: no such dataset; later, from the stream, too many bad records.
    """
    read = records.Records(
      rows_lib.open_source(self.path, self.split), self.path, fields=("video",),
      parse=lambda record: {"video": checks.video(record.get("video"))},
      most_bad=self.max_bad_records,
    )  # fmt: skip

    def make_row(row: int, left_out: set[int]) -> grain.IterDataset:
      return rows_lib.row_stream(
        read, RandomCrop(self.crop), row, self.rows, self.seed, left_out
      )

    order = {
      "records": len(read), "split": self.split, "rows": self.rows, "seed": self.seed
    }  # fmt: skip
    return rows_lib.RowBatches(rows, make_row, lambda batch: batch, read, order)


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
