"""What holds for every video compression network: causal, on its grid, in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.vae import folding, streaming


# Of Wan's two, the one with all the parts; test_wan.py has both.
@pytest.fixture(scope="module", params=["factorized", "wan_residual"])
def network(request, networks):
  """(config, in one piece, a latent at a time); what is compiled is shared."""
  config = networks.FAMILY[request.param]
  parts = (*networks.perturbed(config), config.compression)
  whole = streaming.Streamer(*parts, streaming.Pieces(positions=10**6))
  pieces = streaming.Streamer(*parts, streaming.Pieces(positions=1))
  return config, whole, pieces


@pytest.fixture(scope="module")
def video():
  shape = (1, 13, 32, 48, 3)
  return np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)


def test_time_is_causal(network, video):
  """Frames after a group of latents do not change it, and those within it do."""
  _, whole, _ = network
  latents = whole.encode(video)
  changed = video.copy()
  changed[:, 5:] = 30
  changed = whole.encode(changed)
  np.testing.assert_allclose(changed[:, :2], latents[:, :2], atol=5e-5)
  assert np.abs(changed[:, 2] - latents[:, 2]).max() > 1e-3
  other = latents.copy()
  other[:, 2] = 3.0
  frames, changed = (whole.decode(z).astype(int) for z in (latents, other))
  assert np.abs(changed[:, :5] - frames[:, :5]).max() <= 1
  assert np.abs(changed[:, 5:] - frames[:, 5:]).max() > 5


def test_an_image_is_the_first_frame_of_a_video(network, video):
  config, whole, pieces = network
  alone = pieces.encode(video[:, :1])
  assert alone.shape == (1, *config.latent_size(1, 32, 48), config.latent_channels)
  latents = whole.encode(video)
  np.testing.assert_allclose(alone, latents[:, :1], atol=5e-5)
  frames = pieces.decode(alone).astype(int)
  assert np.abs(frames - whole.decode(latents)[:, :1]).max() <= 1


def test_chunks_of_time_equal_the_whole(network, video):
  """To float tolerance; frames to the last step of their rounding."""
  _, whole, pieces = network
  latents = whole.encode(video)
  np.testing.assert_allclose(pieces.encode(video), latents, atol=5e-5)
  frames, copies = (part.decode(latents).astype(int) for part in (whole, pieces))
  assert np.abs(copies - frames).max() <= 1 and np.mean(copies != frames) < 1e-3


def test_the_last_chunk_is_filled_up_and_cut():
  """13 frames are 1 + 3 latents; in chunks of 3 the second one has 1 that counts."""
  x = np.arange(13)[None]
  chunks = list(streaming.chunks_of_time(x, 3, 4))
  assert [keep for _, keep in chunks] == [3, 1]
  np.testing.assert_array_equal(chunks[0][0][0], np.arange(9))
  np.testing.assert_array_equal(chunks[1][0][0], [9, 10, 11, 12] + [12] * 8)
  assert [len(c[0]) for c, _ in streaming.chunks_of_time(x, 8, 4)] == [13]


def test_sizes_off_the_grid_are_named(networks):
  assert networks.FACTORIZED.latent_size(9, 16, 24) == (3, 2, 3)
  assert networks.WAN_RESIDUAL.latent_size(9, 16, 48) == (3, 1, 3)
  with pytest.raises(ValueError, match="nearest size is 9 frames of 16x24"):
    networks.FACTORIZED.latent_size(8, 17, 23)


def test_statistics_normalize_the_latents(networks):
  skeleton, params, other = networks.perturbed(networks.FACTORIZED)
  model = skeleton.merge(params, other)
  raw = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, (8, 3, 4, 4, 3)))
  for _ in range(800):
    model.update_statistics(raw)
  mean, std = model.latent_moments()
  np.testing.assert_allclose(mean, raw.mean((0, 1, 2, 3)), atol=1e-2)
  np.testing.assert_allclose(std, raw.std((0, 1, 2, 3)), rtol=1e-2)


def test_folding_is_undone_by_unfolding(video):
  x = jnp.asarray(video[:, :9])
  folded = folding.fold_time(x, 4)
  np.testing.assert_array_equal(folding.unfold_time(folded, 4), x)
  flat = folding.fold(folded, 2, 4)
  assert flat.shape == (1, 3, 16, 12, 4 * 3 * 8)
  np.testing.assert_array_equal(folding.unfold(flat, 2, 4), folded)
  turned = folding.reverse(flat, (2, 4, 12))
  np.testing.assert_array_equal(folding.reverse(turned, (12, 4, 2)), flat)


def test_tiles_cover_and_overlap():
  for size, tile, overlap in [(8, None, 2), (17, 8, 2), (9, 8, 7), (64, 16, 4)]:
    tiles = streaming.tiles_of(size, tile, overlap)
    assert tiles[0].start == 0 and tiles[-1].stop == size
    for a, b in zip(tiles[:-1], tiles[1:]):
      assert a.stop - b.start >= overlap and a.stop - a.start == b.stop - b.start


def test_tiles_have_no_seams(networks):
  """Where tiles meet, their picture is as smooth as that of the whole."""
  config = networks.FACTORIZED
  parts = (*networks.perturbed(config), config.compression)
  whole = streaming.Streamer(*parts, streaming.Pieces())
  tiled = streaming.Streamer(*parts, streaming.Pieces(tile=8, overlap=4))
  ramp = np.linspace(0, 255, 160)
  frame = np.stack([np.add.outer(ramp, ramp) / 2, np.add.outer(ramp, -ramp) / 2 + 127,
                    np.full((160, 160), 90)], -1)  # fmt: skip
  x = np.repeat(frame[None, None], 5, axis=1).astype(np.uint8)
  latents = whole.encode(x)
  scale = np.abs(latents).max()
  error = np.abs(tiled.encode(x) - latents)
  # A tile sees zeros at its edges where the whole sees the picture; its weight is small.
  assert np.median(error) < 0.01 * scale and error.max() < 0.1 * scale
  with pytest.raises(ValueError, match="leave out --sample or --tile"):
    tiled.encode(x, jax.random.key(0))
  difference = tiled.decode(latents).astype(int) - whole.decode(latents)
  jumps = np.abs(np.diff(difference, axis=3)).mean((0, 1, 2, 4))
  # Between the pixels where a tile begins or ends, against everywhere.
  seams = np.array([32, 64, 96, 128]) - 1
  assert jumps[seams].mean() < 1.2 * jumps.mean()
