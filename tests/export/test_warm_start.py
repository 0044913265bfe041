"""A run's first parameters: what is loaded, grown, inflated, initialized and dropped."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from sora_jax.diffusion import process
from sora_jax.export import sources, targets, warm_start
from sora_jax.export.warm_start import WarmStart
from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import autoencoder
from sora_jax.training import loop, state
from sora_jax.vae import bottlenecks, wan
from sora_jax.weights import tensors

WAN = pathlib.Path(__file__).parent.parent / "models" / "reference" / "t2v"


def fresh(objective, seed=7):
  return Skeleton.of(objective.make).init(jax.random.key(seed))[0]


def save(objective, folder, seed=0):
  """The folder of a model with every parameter perturbed; returns its parameters."""
  params = fresh(objective, seed)
  keys = jax.random.split(jax.random.key(seed), len(params))
  params = {
    name: x + 0.1 * jax.random.normal(key, x.shape)
    for key, (name, x) in zip(keys, params.items())
  }
  _, other = Skeleton.of(objective.make).init(jax.random.key(0))
  source = sources.Source(
    objective=objective, params={k: tensors.of_array(x) for k, x in params.items()},
    other={k: tensors.of_array(x) for k, x in other.items()},
  )  # fmt: skip
  targets.write("safetensors", source, folder, targets.Options())
  return params


def words(lines):
  return {line.split()[1]: line.split()[0] for line in lines}


def velocity(helpers, objective, params, batch, t_BS, tokens):
  model = Skeleton.of(objective.make).merge(params, {})
  return np.asarray(model(tokens, t_BS, batch))


def test_the_same_model_is_loaded_whole(helpers, tmp_path):
  objective = helpers.tiny_objective()
  saved = save(objective, tmp_path / "a")
  started, lines = WarmStart(path=str(tmp_path / "a"), strict=True).apply(
    objective, fresh(objective)
  )
  assert set(words(lines).values()) == {"loaded"}
  for name, value in saved.items():
    np.testing.assert_array_equal(started[name], value)


def test_a_deeper_model_begins_as_the_same_function(helpers, tmp_path):
  small, deep = helpers.tiny_objective(), helpers.tiny_objective(depth=4)
  saved = save(small, tmp_path / "a")
  started, lines = WarmStart(path=str(tmp_path / "a")).apply(deep, fresh(deep))
  assert words(lines)["backbone.blocks.layers.mlp.up.kernel"] == "deeper"
  batch, t_BS, _ = helpers.pack_clips([[helpers.clip(0, (2, 3, 4), 5)]])
  a = velocity(helpers, small, saved, batch, t_BS, batch.tokens)
  b = velocity(helpers, deep, started, batch, t_BS, batch.tokens)
  np.testing.assert_allclose(b, a, atol=1e-5)
  new = started["backbone.blocks.layers.mlp.up.kernel"][2:]
  assert np.abs(new).max() > 0, "the new layers can learn"


def test_an_image_model_becomes_a_video_model(helpers, tmp_path):
  """Patches of two equal frames give what the image model gives for one of them."""
  image, video = helpers.tiny_objective(), helpers.tiny_objective(patch=(2, 1, 1))
  saved = save(image, tmp_path / "a")
  started, lines = WarmStart(path=str(tmp_path / "a")).apply(video, fresh(video))
  found = words(lines)
  assert found["backbone.embed.kernel"] == found["backbone.head.kernel"] == "inflated"
  assert "initialized" not in found.values() and "dropped" not in found.values()
  batch, t_BS, _ = helpers.pack_clips([[helpers.clip(0, (1, 3, 4), 5)]])
  a = velocity(helpers, image, saved, batch, t_BS, batch.tokens)
  twice = np.concatenate([batch.tokens] * 2, -1)
  b = velocity(helpers, video, started, batch, t_BS, twice)
  np.testing.assert_allclose(b, np.concatenate([a] * 2, -1), atol=1e-5)


def test_what_does_not_fit_is_said(helpers, tmp_path):
  wide = helpers.tiny_objective(width=64)
  save(helpers.tiny_objective(), tmp_path / "a")
  begun = fresh(wide)
  started, lines = WarmStart(path=str(tmp_path / "a")).apply(wide, begun)
  found = words(lines)
  assert found["backbone.embed.kernel"] == "initialized" and found["text.words"] == "loaded"
  np.testing.assert_array_equal(
    started["backbone.embed.kernel"], begun["backbone.embed.kernel"]
  )
  with pytest.raises(ValueError, match=r"strict: .* does not fit:\n  initialized  back"):
    WarmStart(path=str(tmp_path / "a"), strict=True).apply(wide, begun)
  plain = helpers.tiny_objective(absolute_frequencies=0)
  _, lines = WarmStart(path=str(tmp_path / "a")).apply(plain, fresh(plain))
  assert words(lines)["backbone.place.kernel"] == "dropped"


def test_nothing_in_common_is_an_error(helpers):
  objective = helpers.tiny_objective(width=64, text_dim=16)
  with pytest.raises(ValueError, match=r"nothing in .* fits"):
    WarmStart(path=str(WAN)).apply(objective, {"no.such": fresh(objective)["text.null"]})
  with pytest.raises(ValueError, match="does not exist"):
    WarmStart(path="/nowhere").apply(objective, fresh(objective))


def test_a_causal_convolution_is_inflated_from_an_image_one(tmp_path):
  kernel = np.random.default_rng(0).standard_normal((1, 3, 3, 2, 4)).astype(np.float32)
  codec = autoencoder.AutoencoderObjective(
    model=wan.WanConfig(bottleneck=bottlenecks.Kl(channels=4), base_dim=4)
  )
  source = sources.Source(
    objective=codec, params={"codec.a.kernel": tensors.of_array(kernel)}, other={}
  )
  like = jax.device_put(np.zeros((3, 3, 3, 2, 4), np.float32))
  started, word = warm_start._start(
    codec, source, "codec.a.kernel", like, source.params["codec.a.kernel"]
  )
  assert word == "inflated"
  np.testing.assert_array_equal(started[2], kernel[0])
  assert not np.any(started[:2])


def test_a_run_starts_from_wan_on_many_devices(helpers, tmp_path, latents_path):
  """Sharded over eight devices, in another dtype; the average starts there, too."""
  source = sources.open_source(WAN)
  objective = dataclasses.replace(source.objective, times=process.Uniform())
  config = helpers.tiny_config(
    latents_path, objective=objective, data=None, warm_start=WarmStart(path=str(WAN))
  )
  skeleton = Skeleton.of(objective.make)
  mesh = config.mesh.make()
  with jax.set_mesh(mesh):
    begun, layout = state.init_sharded(
      skeleton, config.optimizer.make(1), 0, mesh, config.ema_decay
    )
    started = state.warm_started(begun, config, tmp_path)
  for name, tensor in source.params.items():
    np.testing.assert_array_equal(started.params[name], np.asarray(tensor))
    np.testing.assert_array_equal(started.ema[name], np.asarray(tensor))
    assert started.params[name].sharding == layout.params[name]
  assert "loaded" in (tmp_path / "warm_start.txt").read_text()


def test_training_goes_on_from_a_warm_start(helpers, latents_path, tmp_path, capsys):
  config = helpers.tiny_config(latents_path, num_steps=2)
  first = loop.train(config, tmp_path / "a")
  again = dataclasses.replace(config, warm_start=WarmStart(path=str(tmp_path / "a")))
  second = loop.train(again, tmp_path / "b")
  assert f"warm start: {len(first.params)} loaded (see" in capsys.readouterr().out
  moved = max(
    float(np.abs(np.asarray(x) - np.asarray(first.ema[name])).max())
    for name, x in second.params.items()
  )
  assert 0 < moved < 0.1, "two small steps away from where it started"
  # A resumed run does not start again.
  loop.train(dataclasses.replace(again, num_steps=2), tmp_path / "b")
