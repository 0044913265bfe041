"""What every dataset of clips holds, whoever made it.

Shapes: T frames, H, W pixels.
Used by: the builders and jobs that write clips; crops.py and jobs that read them.
"""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds


def clip_features() -> dict[str, Any]:
  """TFDS features of a clip: uint8 frames [T, H, W, 3], caption, frame rate, id."""
  return {
    "id": tfds.features.Text(),
    "video": tfds.features.Tensor(
      shape=(None, None, None, 3), dtype=np.uint8, encoding="zlib"
    ),
    "caption": tfds.features.Text(),
    "fps": tfds.features.Scalar(np.float32),
  }
