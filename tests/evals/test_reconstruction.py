"""Measures of a codec against what is known of them, and the best linear codec."""

import numpy as np
import pytest

from sora_jax.evals import pca, reconstruction


def video(seed: int = 0, size=(5, 24, 32)) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*size, 3)).astype(np.uint8)


def test_psnr_of_a_known_error():
  """An error of 5 steps everywhere is 20 log10(255 / 5)."""
  truth = np.full((2, 8, 8, 3), 100, np.uint8)
  assert reconstruction.psnr_db(truth, truth + 5) == pytest.approx(34.1514, abs=1e-3)
  assert reconstruction.psnr_db(truth, truth) == pytest.approx(88.13, abs=0.01)


def test_ssim_by_its_formula():
  """Of one window's size, with moments taken by hand."""
  truth, copy = video(0, (1, 11, 11)), video(1, (1, 11, 11))
  offsets = np.arange(-5, 6)
  kernel = np.exp(-np.square(offsets) / (2 * 1.5**2))
  window = np.outer(kernel, kernel) / kernel.sum() ** 2
  values = []
  for c in range(3):
    x, y = (z[0, ..., c].astype(float) for z in (truth, copy))
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2
    cov = (window * x * y).sum() - mx * my
    c1, c2 = 2.55**2, 7.65**2
    values.append(
      (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    )
  assert reconstruction.ssim(truth, copy) == pytest.approx(np.mean(values), abs=1e-6)
  assert reconstruction.ssim(truth, truth) == pytest.approx(1.0)


def test_flicker_is_of_what_moves():
  truth = np.full((4, 8, 8, 3), 100, np.uint8)
  steady = truth + 30
  shaking = truth + np.array([0, 10, 0, 10], np.uint8)[:, None, None, None]
  assert reconstruction.flicker(truth, steady) == 0.0
  assert reconstruction.flicker(truth, shaking) == 10.0
  assert reconstruction.flicker(truth[:1], steady[:1]) == 0.0


def test_pca_is_the_best_linear_codec():
  """Data of 6 dimensions needs 6 channels; fewer give the singular values' error."""
  rng = np.random.default_rng(0)
  basis = rng.normal(size=(6, 3 * 2 * 4 * 4)) * np.array([40, 30, 20, 10, 8, 6])[:, None]
  codes = rng.normal(size=(40, 6))
  patches = np.clip(codes @ basis / 10 + 128, 0, 255)
  # Each video is one image of one patch: frame 0, repeated in time.
  patches = patches.reshape(40, 2, 4, 4, 3)[:, :1]
  videos = [p.round().astype(np.uint8) for p in patches]
  full = pca.Pca.fit(videos, (2, 4, 4), 6)
  few = pca.Pca.fit(videos, (2, 4, 4), 2)
  assert full.explained > 0.995 > few.explained
  latents = few.encode(videos)
  assert latents[0].shape == (1, 1, 1, 2)
  flat = np.stack([v.reshape(-1) for v in videos]).astype(float)
  values = np.linalg.svd(flat - flat.mean(0), compute_uv=False)
  expected = np.square(values[2:]).sum() / flat.size
  copies = few.decode(latents)
  error = np.mean([np.square(v.astype(float) - c) for v, c in zip(videos, copies)])
  assert error == pytest.approx(expected, rel=0.05, abs=0.2)


def test_pca_keeps_sizes():
  videos = [video(0, (9, 16, 24)), video(1, (1, 8, 16))]
  codec = pca.Pca.fit(videos, (4, 8, 8), 5)
  copies = codec.decode(codec.encode(videos))
  assert [c.shape for c in copies] == [v.shape for v in videos]
