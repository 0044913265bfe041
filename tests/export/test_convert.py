"""What goes in comes out, bit for bit; what is bad is named, and nothing is left."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from sora_jax import sharding
from sora_jax.export import sources, targets, verify
from sora_jax.objectives import autoencoder
from sora_jax.training import checkpoint, loop, optimizer
from sora_jax.training.config import TrainConfig
from sora_jax.vae import bottlenecks, factorized
from sora_jax.weights import folders, safetensors_files, tensors

WAN = pathlib.Path(__file__).parent.parent / "models" / "reference" / "t2v"
WAN_VAE = pathlib.Path(__file__).parent.parent / "vae" / "reference" / "wan21"


def write(kind, source, out, **options):
  targets.write(kind, source, out, targets.Options(**options))
  return sources.open_source(out)


@pytest.fixture(scope="module")
def run(helpers, latents_path, tmp_path_factory):
  """The workdir of a small run."""
  workdir = tmp_path_factory.mktemp("run")
  loop.train(helpers.tiny_config(latents_path, num_steps=1, codec="somewhere"), workdir)
  return workdir


@pytest.fixture(scope="module")
def codec_run(helpers, tmp_path_factory):
  """The workdir of a small codec, trained against a discriminator's absence."""
  workdir = tmp_path_factory.mktemp("codec")
  objective = autoencoder.AutoencoderObjective(
    model=factorized.FactorizedConfig(bottleneck=bottlenecks.Kl(channels=4), widths=(8, 16))
  )
  loop.train(
    TrainConfig(
      objective=objective, data=helpers.OneBatch(), num_steps=1,
      optimizer=optimizer.AdamW(lr=optimizer.Cosine(peak=1e-3)),
      mesh=sharding.MeshConfig(),
    ),
    workdir,
  )  # fmt: skip
  return workdir


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_round_trip_over_every_format(tmp_path, dtype):
  """diffusers -> workdir -> diffusers -> workdir -> safetensors, in several files."""
  first = sources.open_source(WAN)
  source = first
  for number, kind in enumerate(("orbax", "diffusers", "orbax", "safetensors")):
    out = tmp_path / f"{number}_{kind}"
    first_dtype = dtype if number == 0 else ""
    found = write(kind, source, out, dtype=first_dtype, shard_bytes=15_000)
    source = found if kind != "diffusers" else sources.open_source(out / "transformer")
    assert source.objective == first.objective
  assert len(list(out.glob("model-*.safetensors"))) > 2
  assert verify.compare(first, source, dtype) == len(first.params)
  assert {x.dtype.name for x in source.params.values()} == {dtype}


def test_bfloat16_is_sampled_in_float32(run, tmp_path):
  source = sources.open_source(run)
  write("orbax", source, tmp_path / "half", dtype="bfloat16")
  like = {
    k: jax.ShapeDtypeStruct(x.shape, np.float32, sharding=jax.sharding.SingleDeviceSharding(
      jax.devices()[0])) for k, x in source.params.items()
  }  # fmt: skip
  params, _, step = checkpoint.restore_model(tmp_path / "half", (like, {}), ema=True)
  assert step == source.step
  for name, x in source.params.items():
    expected = np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(params[name], expected)


def test_a_run_of_ours_as_safetensors_and_back(run, tmp_path):
  for ema in (True, False):
    source = sources.open_source(run, ema=ema)
    again = write("safetensors", source, tmp_path / f"ema_{ema}")
    verify.compare(source, again)
    assert verify.check_outputs(source, again, tmp_path, "safetensors") == 0
    assert again.step == 1 and again.codec == "somewhere"
  average, raw = (sources.open_source(run, ema=ema) for ema in (True, False))
  with pytest.raises(ValueError, match="differs"):
    verify.compare(average, raw)


def test_any_reader_of_safetensors_takes_ours(run, tmp_path):
  source = sources.open_source(run)
  for dtype in (np.float32, ml_dtypes.bfloat16):
    folder = tmp_path / np.dtype(dtype).name
    folder.mkdir()
    cast = {k: x.astype(dtype) for k, x in source.params.items()}
    more = {"numbers": np.arange(5), "one": np.array(3.0)}
    odd = {**cast, **{k: tensors.of_array(x) for k, x in more.items()}}
    (name,) = safetensors_files.write(folder, odd, stem="model")
    found = safetensors.numpy.load_file(folder / name)
    assert set(found) == set(odd)
    for key, value in found.items():
      assert value.tobytes() == np.asarray(odd[key]).tobytes(), key


@pytest.mark.parametrize("which", ["run", "codec_run"])
def test_stablehlo_runs_without_our_code(which, request, tmp_path):
  """The example beside it, in an interpreter that cannot import sora_jax."""
  workdir = request.getfixturevalue(which)
  source = sources.open_source(workdir)
  out = tmp_path / "program"
  again = write("stablehlo", source, out)
  assert verify.check_outputs(source, again, out, "stablehlo") <= 1e-5
  code = (
    "import sys, runpy; sys.modules['sora_jax'] = None; "
    "runpy.run_path('example.py', run_name='__main__')"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=out, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert "latent" in done.stdout and "nan" not in done.stdout


def command(*options: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "sora_jax.convert", *options], capture_output=True, text=True,
    cwd=pathlib.Path(__file__).parent.parent.parent,
  )  # fmt: skip


def test_the_command(tmp_path):
  """Wan's folder to a workdir and back to diffusers, verified; then a user's mistakes."""
  there = command(f"--source={WAN}", "--to=orbax", f"--out={tmp_path / 'run'}", "--verify")
  assert there.returncode == 0, there.stderr
  assert "verified: tensors equal bit for bit, outputs within 0" in there.stdout
  back = command(
    f"--source={tmp_path / 'run'}", "--to=diffusers", f"--out={tmp_path / 'back'}",
    "--dtype=bfloat16", "--verify",
  )  # fmt: skip
  assert back.returncode == 0, back.stderr
  index = json.loads((tmp_path / "back" / "model_index.json").read_text())
  assert index["transformer"] == ["diffusers", "WanTransformer3DModel"]
  for options, message in (
    (("--source=/nowhere", "--to=orbax"), "/nowhere is not a folder (it does not exist)"),
    ((f"--source={tmp_path / 'run'}", "--to=orbax"), "exists already"),
  ):
    done = command(*options, f"--out={tmp_path / 'back'}")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_the_wan_autoencoder_and_its_workdir(tmp_path):
  source = sources.open_source(WAN_VAE)
  assert source.is_codec
  workdir = write("orbax", source, tmp_path / "workdir")
  verify.compare(source, workdir)
  back = write("diffusers", workdir, tmp_path / "diffusers")
  for name, tensor in source.params.items():
    np.testing.assert_array_equal(np.asarray(back.params[name]), np.asarray(tensor))
  # Mean and deviation are stored there, mean and mean square here.
  for name, tensor in source.other.items():
    np.testing.assert_allclose(np.asarray(back.other[name]), np.asarray(tensor), rtol=1e-6)


def test_the_card_says_what_is_known_and_what_is_not(run, tmp_path):
  write("safetensors", sources.open_source(run), tmp_path / "a")
  card = (tmp_path / "a" / "README.md").read_text()
  assert "license: unknown" in card and "moving average" in card and "| loss |" in card
  assert "tokens_per_row" in card, "the data's settings"
  write("safetensors", sources.open_source(WAN), tmp_path / "b", licence="apache-2.0")
  card = (tmp_path / "b" / "README.md").read_text()
  assert "license: apache-2.0" in card and "Not known to the program" in card


# ---- What is bad ---------------------------------------------------------------------


def exported(run, tmp_path) -> pathlib.Path:
  write("safetensors", sources.open_source(run), tmp_path / "good")
  return tmp_path / "good"


def test_every_flipped_byte_is_found(run, tmp_path):
  folder = exported(run, tmp_path)
  rng = np.random.default_rng(0)
  for name in ("model.safetensors", "config.json", "README.md"):
    good = (folder / name).read_bytes()
    for place in rng.integers(0, len(good), 5):
      bad = bytearray(good)
      bad[place] ^= 1 << rng.integers(8)
      (folder / name).write_bytes(bad)
      with pytest.raises(ValueError, match=f"{name} is not what was written"):
        sources.open_source(folder)
    (folder / name).write_bytes(good)
  sources.open_source(folder)


def test_damaged_files_are_named_without_a_manifest_too(run, tmp_path):
  folder = exported(run, tmp_path)
  (folder / folders.MANIFEST).unlink()
  path = folder / "model.safetensors"
  good = path.read_bytes()
  for size in (0, 4, 100, len(good) // 2, len(good) - 1):
    path.write_bytes(good[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
      sources.open_source(folder)
  huge = (1 << 62).to_bytes(8, "little") + good[8:]
  path.write_bytes(huge)
  with pytest.raises(ValueError, match="header too large"):
    sources.open_source(folder)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "last.ckpt"])
def test_pickles_are_refused(run, tmp_path, name):
  folder = exported(run, tmp_path)
  (folder / folders.MANIFEST).unlink()
  (folder / "model.safetensors").rename(folder / name)
  with pytest.raises(ValueError, match=rf"only pickles \({name}\)"):
    sources.open_source(folder)
  with pytest.raises(ValueError, match="is a pickle"):
    safetensors_files.read(folder / name)


@pytest.mark.parametrize(
  ("index", "message"),
  [
    ({"weight_map": {"a": "b.safetensors"}}, "names b.safetensors, which is not there"),
    ({"weight_map": {"a": "../../etc/x"}}, "which is not in its folder"),
    ({"weights": 3}, "is not an index"),
    ([1], "is not an index"),
  ],
)
def test_bad_indices(tmp_path, index, message):
  (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
  with pytest.raises(ValueError, match=message):
    safetensors_files.read(tmp_path)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "is not JSON"), ("[]", "is not a JSON object"), ("{}", "is no workdir"),
    ('{"_class_name": "FluxTransformer"}', "is of a FluxTransformer"),
    ('{"objective": {"__class__": "os:system"}}', "not a config of this project"),
  ],
)  # fmt: skip
def test_bad_configs(tmp_path, text, message):
  (tmp_path / "config.json").write_text(text)
  (tmp_path / "model.safetensors").write_bytes(safetensors.numpy.save({"a": np.zeros(1)}))
  with pytest.raises(ValueError, match=message):
    sources.open_source(tmp_path)


def test_a_damaged_checkpoint_is_named(run, tmp_path):
  shutil.copytree(run, tmp_path / "run")
  (data,) = (tmp_path / "run" / "checkpoints" / "1").glob("ema/d")
  for file in data.iterdir():
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  with pytest.raises(ValueError, match="ema"):
    verify.outputs(sources.open_source(tmp_path / "run"))


def test_nothing_is_left_where_writing_fails(run, tmp_path, monkeypatch):
  source = sources.open_source(run)
  name = sorted(source.params)[3]

  def fail(box):
    raise OSError(28, "No space left on device", "the disk")

  full = tensors.Tensor(source.params[name].shape, source.params[name].dtype, fail)
  source.params = {**source.params, name: full}
  with pytest.raises(ValueError, match="could not write the disk: No space left"):
    targets.write("safetensors", source, tmp_path / "out", targets.Options())
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(ValueError, match="absolute_frequencies=2 has no place"):
    targets.write("diffusers", source, tmp_path / "out", targets.Options())
  assert list(tmp_path.iterdir()) == []
  (tmp_path / "out").mkdir()
  with pytest.raises(ValueError, match="exists already"):
    targets.write("safetensors", source, tmp_path / "out", targets.Options())
