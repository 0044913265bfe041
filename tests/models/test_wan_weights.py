"""Our denoiser with Wan's weights gives what diffusers' gives; weights come back the same.

The folders in reference/ are made by tests/parity/wan_transformer.py; `make test-parity`
compares live, block by block, at more sizes.
"""

import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from sora_jax.models import wan_weights
from sora_jax.weights import safetensors_files
from tests.models import wan_rows

REFERENCE = pathlib.Path(__file__).with_name("reference")
NAMES = ("t2v", "ti2v", "i2v")


def load(name: str):
  """(our config, diffusers' tensors, the clips, what else was recorded)."""
  folder = REFERENCE / name
  described = json.loads((folder / "config.json").read_text())
  config = wan_weights.config_from_reference(described)
  recorded = safetensors.numpy.load_file(folder / "expected.st")
  clips = [
    {k[2:]: v for k, v in recorded.items() if k.startswith(start)} for start in ("0.", "1.")
  ]
  return config, safetensors_files.read(folder), clips, recorded


@pytest.mark.parametrize("name", NAMES)
def test_packed_clips_as_diffusers_one_by_one(name):
  config, found, clips, _ = load(name)
  ours = wan_rows.outputs(config, wan_rows.params(config, found), clips)
  for out, clip in zip(ours, clips):
    np.testing.assert_allclose(out, clip["output"], atol=1e-4)
    assert np.abs(clip["output"]).max() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_gradients_as_diffusers(name):
  config, found, clips, recorded = load(name)
  ours = wan_rows.gradients(config, wan_rows.params(config, found), clips)
  names = [k.removeprefix("gradient.") for k in recorded if k.startswith("gradient.")]
  assert len(names) > 30
  for key in names:
    expected = recorded[f"gradient.{key}"]
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(np.asarray(ours[key]) / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_tensors_come_back_the_same(name, dtype):
  config, found, _, _ = load(name)
  found = {k: x.astype(dtype) for k, x in found.items()}
  ours = wan_weights.from_reference(config, found, where=name)
  back = wan_weights.to_reference(config, ours)
  assert set(back) == set(found)
  for key, tensor in back.items():
    assert np.asarray(tensor).tobytes() == np.asarray(found[key]).tobytes(), key
  described = json.loads((REFERENCE / name / "config.json").read_text())
  for key, value in wan_weights.config_to_reference(config).items():
    assert described[key] == value, key


def test_any_part_of_a_view_is_that_part_of_the_whole():
  config, found, _, _ = load("t2v")
  ours = wan_weights.from_reference(config, found, where="t2v")
  for name in ("blocks.layers.mlp.up.kernel", "embed.kernel", "blocks.layers.modulation"):
    tensor = ours[f"backbone.{name}"]
    box = tuple(slice(n // 3, n // 3 + max(1, n // 2)) for n in tensor.shape)
    np.testing.assert_array_equal(tensor.read(box), np.asarray(tensor)[box])


def damage(folder: pathlib.Path, how) -> pathlib.Path:
  """A copy of the reference whose tensors `how` has changed."""
  shutil.copytree(REFERENCE / "t2v", folder)
  path = folder / "diffusion_pytorch_model.safetensors"
  arrays = safetensors.numpy.load_file(path)
  how(arrays)
  safetensors.numpy.save_file(arrays, path)
  return folder


@pytest.mark.parametrize(
  ("how", "message"),
  [
    (lambda a: a.pop("blocks.1.attn1.to_q.bias"), "no tensor 'blocks.1.attn1.to_q.bias'"),
    (lambda a: a.update(more=np.zeros(3)), "1 tensors that the config does not: more"),
    (
      lambda a: a.update({"proj_out.bias": np.zeros(5, np.float32)}),
      r"'proj_out.bias' has shape \(5,\), and the config needs \(16,\)",
    ),
  ],
  ids=["missing", "extra", "shape"],
)
def test_wrong_tensors_are_named(tmp_path, how, message):
  folder = damage(tmp_path / "damaged", how)
  config = load("t2v")[0]
  with pytest.raises(ValueError, match=message):
    wan_weights.from_reference(config, safetensors_files.read(folder), where=str(folder))


def test_other_models_are_refused(helpers):
  with pytest.raises(ValueError, match="is of a None, not a WanTransformer3DModel"):
    wan_weights.config_from_reference({})
  described = json.loads((REFERENCE / "t2v" / "config.json").read_text())
  with pytest.raises(ValueError, match="cross_attn_norm=False is not supported"):
    wan_weights.config_from_reference({**described, "cross_attn_norm": False})
  with pytest.raises(ValueError, match="absolute_frequencies=2 has no place"):
    wan_weights.config_to_reference(helpers.tiny_model().backbone)
