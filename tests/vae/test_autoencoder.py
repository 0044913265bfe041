"""The video compression network: causal, true to its grid, and normalized."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import configlib, sharding
from sora_jax.generation import codec as codec_lib
from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import autoencoder as objective_lib
from sora_jax.training import loop, optimizer
from sora_jax.training.config import TrainConfig
from sora_jax.vae import autoencoder

CONFIG = autoencoder.AutoencoderConfig(
  latent_channels=3, widths=(8, 16), decoder_blocks=(1, 1)
)


@pytest.fixture(scope="module")
def model():
  """Parameters that are nowhere zero, so that time is really mixed."""
  skeleton = Skeleton.of(CONFIG.make)
  params, other = skeleton.init(jax.random.key(0))
  params = {k: v + 0.05 * jnp.cos(jnp.arange(v.size)).reshape(v.shape)
            for k, v in params.items()}  # fmt: skip
  return skeleton.merge(params, other)


@pytest.fixture(scope="module")
def video():
  return jax.random.uniform(jax.random.key(1), (2, 9, 16, 24, 3), minval=-1)


def test_time_is_causal(model, video):
  """Frames after a group of latents do not change it, and those within it do."""
  latents, frames = model.encode(video), model.decode(model.encode(video))
  changed = video.at[:, 5:].set(0.3)
  np.testing.assert_allclose(model.encode(changed)[:, :2], latents[:, :2], atol=1e-5)
  assert np.abs(model.encode(changed)[:, 2] - latents[:, 2]).max() > 1e-3
  np.testing.assert_allclose(
    model.decode(latents.at[:, 2].set(9.0))[:, :5], frames[:, :5], atol=1e-5
  )


def test_an_image_is_the_first_frame_of_a_video(model, video):
  alone = model.encode(video[:, :1])
  assert alone.shape == (2, 1, 2, 3, 3)
  np.testing.assert_allclose(alone, model.encode(video)[:, :1], atol=1e-5)
  assert model.decode(alone).shape == (2, 1, 16, 24, 3)


def test_folding_is_undone_by_unfolding(video):
  folded = autoencoder.fold_time(video, 4)
  np.testing.assert_array_equal(autoencoder.unfold_time(folded, 4), video)
  flat = autoencoder.fold(folded, 2, 4)
  assert flat.shape == (2, 3, 8, 6, 4 * 3 * 8)
  np.testing.assert_array_equal(autoencoder.unfold(flat, 2, 4), folded)


def test_sizes_off_the_grid_are_named():
  assert CONFIG.latent_size(9, 16, 24) == (3, 2, 3)
  with pytest.raises(ValueError, match="nearest size is 9 frames of 16x24"):
    CONFIG.latent_size(8, 17, 23)


def test_statistics_normalize_the_latents():
  skeleton = Skeleton.of(CONFIG.make)
  model = skeleton.merge(*skeleton.init(jax.random.key(0)))
  rng = np.random.default_rng(0)
  raw = jnp.asarray(rng.normal(2.0, 3.0, (8, 3, 4, 4, 3)))
  for _ in range(800):
    model.update_statistics(raw)
  mean, std = model._moments()
  np.testing.assert_allclose(mean, raw.mean((0, 1, 2, 3)), atol=1e-2)
  np.testing.assert_allclose(std, raw.std((0, 1, 2, 3)), rtol=1e-2)


@configlib.config
class OneBatch:
  """A batch source of a few lines: the loop needs no data pipeline."""

  rows: int = 8

  def open(self, rows):
    del rows
    return self

  def __next__(self):
    video = np.zeros((8, 5, 16, 16, 3), np.uint8)
    for i in range(8):
      video[i, :, 2 + i :, : 4 + i] = 30 * i
    return {"video": video}

  def get_state(self):
    return {"0": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("codec")
  config = TrainConfig(
    objective=objective_lib.AutoencoderObjective(model=CONFIG), data=OneBatch(),
    optimizer=optimizer.AdamW(lr=optimizer.Cosine(peak=5e-3, warmup_steps=3)),
    mesh=sharding.MeshConfig(), num_steps=40, ema_decay=0.9, log_every=20,
  )  # fmt: skip
  loop.train(config, workdir)
  return workdir


def test_the_loop_trains_it(trained):
  rows = loop.metrics.read(trained)
  assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


def test_codec_pads_time_and_cuts_it_again(trained):
  """Clips of many sizes at once come out as each would alone."""
  codec = codec_lib.Codec(trained)
  rng = np.random.default_rng(0)
  sizes = [(9, 16, 16), (1, 16, 16), (5, 16, 16), (13, 8, 24), (9, 16, 16)]
  videos = [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
  latents = codec.encode(videos)
  frames = codec.decode(latents)
  for video, z, back in zip(videos, latents, frames):
    assert z.shape == (*CONFIG.latent_size(*video.shape[:3]), 3)
    assert back.shape == video.shape and back.dtype == np.uint8
    alone = codec.encode([video])[0]
    np.testing.assert_allclose(z, alone, atol=1e-4)
    assert np.abs(codec.decode([alone])[0].astype(int) - back).max() <= 1
  with pytest.raises(ValueError, match="off the codec's grid"):
    codec.encode([np.zeros((4, 16, 16, 3), np.uint8)])


def test_what_is_not_a_codec_is_named(tmp_path):
  with pytest.raises(ValueError, match="no codec at"):
    codec_lib.Codec(tmp_path)
