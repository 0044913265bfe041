"""The best linear codec: principal components of spacetime patches.

The baseline for the video compression network, of the same latent size: a patch of
(ct, ch, cw) pixels becomes its `channels` leading principal components. It minimizes the
squared error among all linear maps of patches (Eckart and Young 1936).

Shapes: T, H, W pixels; t, h, w latents; Z channels; D = 3 ct ch cw values of a patch.
Used by: benchmarks/codecs.py.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from sora_jax.vae import folding


@dataclasses.dataclass(frozen=True)
class Pca:
  """Made by `fit`; of the signature of generation/codec.py:Codec."""

  compression: tuple[int, int, int]
  mean_D: np.ndarray
  components_ZD: np.ndarray
  explained: float  # share of the variance of the patches that it was fitted to

  @classmethod
  def fit(
    cls, videos: Sequence[np.ndarray], compression: tuple[int, int, int], channels: int
  ) -> "Pca":
    """From all patches of uint8 videos on the grid of `compression`."""
    patches = np.concatenate([
      _to_patches(video, compression).reshape(-1, 3 * np.prod(compression))
      for video in videos
    ])  # fmt: skip
    mean = patches.mean(0, dtype=np.float64)
    centered = patches - mean.astype(np.float32)
    covariance = (centered.T @ centered).astype(np.float64) / len(patches)
    values, vectors = np.linalg.eigh(covariance)
    components = vectors[:, ::-1][:, :channels].T
    explained = values[::-1][:channels].sum() / values.sum()
    return cls(
      compression, mean.astype(np.float32), components.astype(np.float32),
      float(explained),
    )  # fmt: skip

  def encode(self, videos: Sequence[np.ndarray]) -> list[np.ndarray]:
    """uint8 [T, H, W, 3] each -> latents [t, h, w, Z] each."""
    return [
      (_to_patches(v, self.compression) - self.mean_D) @ self.components_ZD.T
      for v in videos
    ]

  def decode(self, latents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Latents -> uint8 frames."""
    ct, ch, cw = self.compression
    videos = []
    for z in latents:
      patches = z @ self.components_ZD + self.mean_D
      x = folding.unfold_time(folding.unfold(patches[None], ch, cw), ct)[0]
      videos.append(np.clip(np.round(np.asarray(x)), 0, 255).astype(np.uint8))
    return videos


def _to_patches(video: np.ndarray, compression: tuple[int, int, int]) -> np.ndarray:
  """uint8 [T, H, W, 3] -> float32 [t, h, w, D]; frame 0 fills a patch of its own."""
  ct, ch, cw = compression
  x = folding.fold_time(video[None].astype(np.float32), ct)
  return np.asarray(folding.fold(x, ch, cw)[0])
