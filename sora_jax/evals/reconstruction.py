"""How well a codec's copies match videos: PSNR, SSIM, temporal flicker.

Shapes: uint8 frames [T, H, W, 3], truth and copy alike.
Used by: data_pipelines/jobs/check_codec.py, benchmarks/codecs.py.
"""

import numpy as np
from scipy import ndimage


def psnr_db(truth: np.ndarray, copy: np.ndarray) -> float:
  """Peak signal-to-noise ratio over the video, in dB; capped at 88 (equal videos)."""
  error = np.mean(np.square(truth.astype(np.float32) - copy.astype(np.float32)))
  return float(10.0 * np.log10(255.0**2 / max(error, 1e-4)))


def ssim(truth: np.ndarray, copy: np.ndarray) -> float:
  """Structural similarity, mean over frames and colors (Wang et al. 2004).

  Gaussian windows of deviation 1.5 and 11 pixels, population moments: scikit-image's
  `structural_similarity(gaussian_weights=True, use_sample_covariance=False)` away from
  the borders. 1 is equal.
  """
  x, y = truth.astype(np.float64), copy.astype(np.float64)

  def blur(z: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(z, (0, 1.5, 1.5, 0), truncate=3.5)

  mean_x, mean_y = blur(x), blur(y)
  variance_x = blur(x * x) - mean_x**2
  variance_y = blur(y * y) - mean_y**2
  covariance = blur(x * y) - mean_x * mean_y
  c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
  values = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
    (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
  )
  edge = 5 if min(truth.shape[1:3]) > 10 else 0  # windows that leave the frame
  height, width = truth.shape[1:3]
  return float(values[:, edge : height - edge, edge : width - edge].mean())


def flicker(truth: np.ndarray, copy: np.ndarray) -> float:
  """Mean absolute change of the error from frame to frame, in steps of 255.

  0 where the error stands still, however large it is; also of an image.
  """
  if len(truth) == 1:
    return 0.0
  error = copy.astype(np.float32) - truth.astype(np.float32)
  return float(np.mean(np.abs(np.diff(error, axis=0))))


MEASURES = {"psnr_db": psnr_db, "ssim": ssim, "flicker": flicker}
