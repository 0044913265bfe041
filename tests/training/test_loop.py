"""The loop: resumed = uninterrupted, eight devices = one, and what it refuses."""

import json
import pathlib

import jax
import numpy as np
import pytest

from sora_jax import chips, configlib, sharding
from sora_jax.nn import attention
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training import checkpoint, loop, metrics, optimizer, state


def arrays(train_state) -> dict[str, np.ndarray]:
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(train_state)
  }


def muon_config(helpers, path: str, **changes):
  """Muon, because it has more that can go wrong than AdamW."""
  lr, adam_lr = (optimizer.Cosine(peak=p, warmup_steps=2) for p in (0.02, 2e-3))
  return helpers.tiny_config(
    path, **{"optimizer": optimizer.Muon(lr=lr, adam_lr=adam_lr), **changes}
  )


@pytest.fixture(scope="module")
def whole_run(helpers, latents_path, tmp_path_factory):
  """Four steps in one go on eight devices."""
  workdir = tmp_path_factory.mktemp("whole")
  return loop.train(muon_config(helpers, latents_path), workdir), workdir


def test_resumed_equals_uninterrupted_bit_for_bit(
  helpers, latents_path, tmp_path, whole_run, monkeypatch
):
  """Stops after step 3, whose work is lost: the run goes on from step 2."""
  config = muon_config(helpers, latents_path)
  stops = iter([None] * 3)

  class Stop(Exception):
    pass

  original = loop.distributed.to_global

  def failing(mesh, local):
    try:
      next(stops)
    except StopIteration:
      raise Stop from None
    return original(mesh, local)

  monkeypatch.setattr(loop.distributed, "to_global", failing)
  with pytest.raises(Stop):
    loop.train(config, tmp_path)
  monkeypatch.undo()
  resumed = arrays(loop.train(config, tmp_path))
  expected = arrays(whole_run[0])
  assert resumed.keys() == expected.keys()
  for name in expected:
    np.testing.assert_array_equal(resumed[name], expected[name], err_msg=name)
  log, other_log = metrics.read(tmp_path), metrics.read(whole_run[1])
  assert [row["step"] for row in log] == [1, 2, 3, 4]
  assert [row["loss"] for row in log] == [row["loss"] for row in other_log]


def test_eight_devices_equal_one(
  helpers, latents_path, tmp_path, whole_run, monkeypatch
):
  monkeypatch.setattr(
    sharding.MeshConfig, "make",
    lambda self, make=sharding.MeshConfig.make: make(self, jax.devices()[:1]),
  )  # fmt: skip
  one = arrays(loop.train(muon_config(helpers, latents_path), tmp_path))
  for name, value in arrays(whole_run[0]).items():
    np.testing.assert_allclose(value, one[name], atol=2e-4, err_msg=name)
  losses = [[row["loss"] for row in metrics.read(w)] for w in (tmp_path, whole_run[1])]
  np.testing.assert_allclose(*losses, rtol=1e-4)


def test_slices_context_and_tensor_give_the_same_losses(
  helpers, latents_path, tmp_path, whole_run
):
  mesh = sharding.MeshConfig(slice=2, fsdp=1, context=2, tensor=2)
  how = attention.AttentionConfig(kernel="loops", context="ring")
  config = muon_config(helpers, latents_path, mesh=mesh)
  config.objective = helpers.tiny_objective(attention=how)
  loop.train(config, tmp_path)
  losses = [[row["loss"] for row in metrics.read(w)] for w in (tmp_path, whole_run[1])]
  np.testing.assert_allclose(*losses, rtol=1e-4)


def test_every_moment_lies_as_its_parameter(helpers):
  """By default a jitted init leaves Adam's moments replicated."""
  mesh = sharding.MeshConfig().make()
  skeleton = Skeleton.of(helpers.tiny_objective().make)
  lr = optimizer.Cosine(peak=1e-3)
  for rule in (optimizer.AdamW(lr=lr), optimizer.Muon(lr=lr, adam_lr=lr)):
    with jax.set_mesh(mesh):
      train_state, _ = state.init_sharded(skeleton, rule.make(10), 0, mesh)
    name = "backbone.blocks.layers.mlp.up.kernel"
    place = train_state.params[name].sharding
    assert place.spec[1] is not None, "the kernel itself is not sharded"
    moments = [
      leaf for path, leaf in jax.tree_util.tree_leaves_with_path(train_state.opt_state)
      if any(getattr(key, "key", None) == name for key in path)
    ]  # fmt: skip
    assert moments and all(leaf.sharding == place for leaf in moments)


def test_muon_takes_matrices_and_adam_the_rest(helpers):
  params, _ = Skeleton.of(helpers.tiny_objective().make).abstract
  dims = optimizer.muon_dims(params)
  stacked = dims["backbone.blocks.layers.mlp.up.kernel"]
  assert (stacked.reduction_axis, stacked.output_axis) == ((1,), (2,))
  for name in ("backbone.embed.kernel", "backbone.head.kernel", "text.words",
               "backbone.blocks.layers.modulation", "backbone.text_in.bias"):  # fmt: skip
    assert dims[name] is None, name


def test_another_config_in_the_workdir_is_refused(helpers, latents_path, whole_run):
  config = muon_config(helpers, latents_path, seed=1)
  config.objective.text_dropout = 0.2
  with pytest.raises(ValueError) as error:
    loop.train(config, whole_run[1])
  assert "seed: 0 -> 1" in str(error.value)
  assert "objective.text_dropout: 0.1 -> 0.2" in str(error.value)


def test_config_json_round_trips(helpers, latents_path, whole_run):
  text = (pathlib.Path(whole_run[1]) / "config.json").read_text()
  assert configlib.from_json(text) == muon_config(helpers, latents_path)
  assert configlib.from_json(text, field="num_steps") == 4


def test_hostile_config_json_is_refused():
  for cls in ("os:system", "sora_jax.api:np", "sora_jax.cli:run"):
    with pytest.raises(ValueError, match="not a config"):
      configlib.from_json(json.dumps({"__class__": cls}))


def test_the_saved_average_is_restored_alone(helpers, latents_path, whole_run):
  train_state, workdir = whole_run
  skeleton = Skeleton.of(helpers.tiny_objective().make)
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), skeleton.abstract
  )
  params, _, step = checkpoint.restore_model(workdir, abstract, ema=True)
  assert step == 4
  for name, value in train_state.ema.items():
    np.testing.assert_array_equal(params[name], np.asarray(value))


def test_meshes_that_do_not_fit_are_named(helpers, latents_path, tmp_path):
  with pytest.raises(ValueError, match=r"needs .*16 devices, but there are 8"):
    sharding.MeshConfig(fsdp=16).make()
  config = muon_config(helpers, latents_path)
  config.data.rows = 6
  with pytest.raises(ValueError, match="must divide 6"):
    loop.train(config, tmp_path)


def test_a_profile_is_taken_when_asked_for(helpers, latents_path, tmp_path, monkeypatch):
  monkeypatch.setattr(metrics.Profiler, "STEPS", 1)
  tmp_path.joinpath("run").mkdir()
  (tmp_path / "run" / "profile").touch()
  config = muon_config(helpers, latents_path, num_steps=3, checkpoint_every=10)
  loop.train(config, tmp_path / "run")
  assert not (tmp_path / "run" / "profile").exists()
  assert list((tmp_path / "run" / "profiles" / "step_1").rglob("*.xplane.pb"))


def test_metrics_tell_mfu_goodput_and_waiting(monkeypatch):
  known = chips.Chip(2e12, 1.0, 1.0, 1.0, ("known",))
  monkeypatch.setattr(chips, "of_kind", lambda kind: known)
  clock = iter([0.0, 0.0, 10.0, 10.0, 10.0, 14.0, 16.0, 16.0])
  monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
  window = metrics.Window()
  window.add({"model_flops": 1.0, "useful_tokens": 1.0}, waited=1.0)
  assert window.close()["goodput"] == 0.0, "the first window holds the compilation"
  for _ in range(2):
    window.add({"model_flops": 16e12, "useful_tokens": 100.0}, waited=0.5)
  found = window.close()
  # 32 TFLOP in 4 of the 16 seconds, on eight devices of 2 TFLOP/s.
  assert found["mfu"] == pytest.approx(32 / 4 / (8 * 2))
  assert found["useful_tokens_per_s"] == 50.0 and found["data_wait_fraction"] == 0.25
  assert found["goodput"] == pytest.approx(3 / 16)


def test_a_bucket_s_url_is_no_workdir(helpers, latents_path):
  with pytest.raises(ValueError, match="mount the bucket"):
    loop.train(muon_config(helpers, latents_path), "gs://bucket/run")
