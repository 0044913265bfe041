"""The Wan autoencoder gives what diffusers' gives, on committed weights and videos.

The files in reference/ are made by tests/parity/wan_vae.py; `make test-parity` compares
live, layer by layer, and at full size.
"""

import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from sora_jax.generation import codec as codec_lib
from sora_jax.nn.skeleton import Skeleton
from sora_jax.vae import wan_weights
from sora_jax.vae.causal import Stream

REFERENCE = pathlib.Path(__file__).with_name("reference")
NAMES = ["wan21", "wan22"]


def channels_last(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {k: v.transpose(0, 2, 3, 4, 1) for k, v in arrays.items()}


@pytest.mark.parametrize("kind", ["image", "clip"])
@pytest.mark.parametrize("name", NAMES)
def test_as_diffusers(name, kind):
  config, params, other = wan_weights.load(REFERENCE / name)
  model = Skeleton.of(config.make).merge(params, other)
  arrays = safetensors.numpy.load_file(REFERENCE / name / f"{kind}.safetensors")
  arrays = channels_last(arrays)
  moments = model.to_bottleneck(jnp.asarray(arrays["video"]), Stream())
  np.testing.assert_allclose(moments, arrays["moments"], atol=1e-4)
  mean = jnp.asarray(np.split(arrays["moments"], 2, axis=-1)[0])
  frames = jnp.clip(model.to_frames(mean, Stream()), -1.0, 1.0)
  np.testing.assert_allclose(frames, arrays["decoded"], atol=1e-4)
  assert np.mean(np.abs(arrays["decoded"]) < 1) > 0.5  # not all of it is clipped


def test_latents_are_normalized_as_the_file_says():
  config, params, other = wan_weights.load(REFERENCE / "wan21")
  described = json.loads((REFERENCE / "wan21" / "config.json").read_text())
  model = Skeleton.of(config.make).merge(params, other)
  arrays = channels_last(
    safetensors.numpy.load_file(REFERENCE / "wan21" / "clip.safetensors")
  )
  mean = np.split(arrays["moments"], 2, axis=-1)[0]
  expected = (mean - described["latents_mean"]) / described["latents_std"]
  np.testing.assert_allclose(
    model.encode(jnp.asarray(arrays["video"])), expected, atol=1e-3
  )


def test_a_folder_of_diffusers_is_a_codec():
  codec = codec_lib.Codec(REFERENCE / "wan22")
  assert codec.config.compression == (4, 16, 16)
  video = np.random.default_rng(0).integers(0, 256, (5, 32, 64, 3)).astype(np.uint8)
  latents = codec.encode([video, video[:1]])
  assert [z.shape for z in latents] == [(2, 2, 4, 48), (1, 2, 4, 48)]
  assert [x.shape for x in codec.decode(latents)] == [video.shape, video[:1].shape]


@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_are_the_loaded_ones(name, tmp_path):
  loaded = wan_weights.load(REFERENCE / name)
  wan_weights.save(tmp_path, *loaded)
  again = wan_weights.load(tmp_path)
  assert again[0] == loaded[0]
  for ours, theirs in zip(again[1:], loaded[1:]):
    assert ours.keys() == theirs.keys()
    for key in ours:
      np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5)


def test_a_wrong_file_is_named(tmp_path):
  folder = tmp_path / "wan"
  shutil.copytree(REFERENCE / "wan21", folder)
  arrays = safetensors.numpy.load_file(folder / wan_weights.WEIGHTS)
  taken = arrays.pop("encoder.conv_in.weight")
  safetensors.numpy.save_file(arrays, folder / wan_weights.WEIGHTS)
  with pytest.raises(ValueError, match=r"no array 'encoder.conv_in.weight'"):
    wan_weights.load(folder)
  arrays["encoder.conv_in.weight"] = np.ascontiguousarray(taken[:2])
  safetensors.numpy.save_file(arrays, folder / wan_weights.WEIGHTS)
  with pytest.raises(ValueError, match=r"'encoder.conv_in.weight' has shape"):
    wan_weights.load(folder)
  (folder / wan_weights.WEIGHTS).unlink()
  with pytest.raises(ValueError, match="has no diffusion_pytorch_model"):
    wan_weights.load(folder)
