"""A trained codec: clips of many sizes at once come out as each would alone."""

import numpy as np
import pytest

from sora_jax import sharding
from sora_jax.generation import codec as codec_lib
from sora_jax.objectives import autoencoder as objective_lib
from sora_jax.training import loop, optimizer
from sora_jax.training.config import TrainConfig
from sora_jax.vae import bottlenecks, factorized

SIZES = [(9, 16, 16), (1, 16, 16), (5, 16, 16), (13, 8, 24), (9, 16, 16)]


def trained(workdir, bottleneck, batches) -> codec_lib.Codec:
  network = factorized.FactorizedConfig(
    bottleneck=bottleneck, widths=(8, 16), decoder_blocks=(1, 1)
  )
  config = TrainConfig(
    objective=objective_lib.AutoencoderObjective(model=network), data=batches,
    optimizer=optimizer.AdamW(lr=optimizer.Cosine(peak=5e-3, warmup_steps=3)),
    mesh=sharding.MeshConfig(), num_steps=2, ema_decay=0.9,
  )  # fmt: skip
  loop.train(config, workdir)
  return codec_lib.Codec(workdir)


@pytest.fixture(scope="module")
def codec(tmp_path_factory, helpers):
  folder = tmp_path_factory.mktemp("codec")
  return trained(folder, bottlenecks.Kl(channels=3), helpers.OneBatch())


@pytest.fixture(scope="module")
def videos():
  rng = np.random.default_rng(0)
  return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]


def test_it_pads_time_and_cuts_it_again(codec, videos):
  latents = codec.encode(videos)
  frames = codec.decode(latents)
  for video, z, back in zip(videos, latents, frames):
    assert z.shape == (*codec.config.latent_size(*video.shape[:3]), 3)
    assert back.shape == video.shape and back.dtype == np.uint8
    alone = codec.encode([video])[0]
    np.testing.assert_allclose(z, alone, atol=1e-4)
    assert np.abs(codec.decode([alone])[0].astype(int) - back).max() <= 1
  with pytest.raises(ValueError, match="off the codec's grid"):
    codec.encode([np.zeros((4, 16, 16, 3), np.uint8)])


def test_a_sample_is_the_video_s_own(codec, videos):
  """The same seed gives the same latents, with others or alone."""
  together = codec.encode(videos, seeds=range(5))
  alone = codec.encode(videos[2:3], seeds=[2])[0]
  np.testing.assert_allclose(together[2], alone, atol=1e-4)
  assert np.abs(alone - codec.encode(videos[2:3])[0]).max() > 1e-3


def test_only_a_codebook_has_codes(codec, videos, tmp_path, helpers):
  with pytest.raises(ValueError, match="without a codebook"):
    codec.codes(videos)
  quantized = trained(tmp_path, bottlenecks.Fsq(levels=(3, 3, 3)), helpers.OneBatch())
  codes = quantized.codes(videos[:1])[0]
  assert codes.shape == (3, 2, 2) and codes.min() >= 0 and codes.max() < 27


def test_what_is_not_a_codec_is_named(tmp_path):
  with pytest.raises(ValueError, match="no codec at"):
    codec_lib.Codec(tmp_path)
