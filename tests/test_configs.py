"""Every config file: each argument loads, round-trips, and traces a training step."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from configs import demo, t2v, vae, wan
from sora_jax import configlib
from sora_jax.models import wan_weights
from sora_jax.nn.skeleton import Skeleton

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"


def test_this_file_knows_every_config():
  found = {path.stem for path in CONFIGS.glob("*.py")} - {"__init__"}
  assert found == {"demo", "t2v", "vae", "wan"}


def check(get_config, arg: str) -> int:
  """Loads and traces a config; returns the number of its parameters."""
  config = get_config(arg)
  assert configlib.from_json(configlib.to_json(config)) == config
  assert hash(config.objective) == hash(get_config(arg).objective)
  params, _ = Skeleton.of(config.objective.make).abstract
  jax.eval_shape(lambda: config.optimizer.make(10).init(params))
  return sum(np.prod(value.shape) for value in params.values())


@pytest.mark.parametrize("arg", ["vae", "dit", "videos_vae", "videos_dit"])
def test_demo(arg):
  assert 1e5 < check(demo.get_config, arg) < 1e7


# Of Wan's: the parameters that its authors publish, plus our PatchGAN's.
@pytest.mark.parametrize(
  ("arg", "millions"),
  [("kl", 0.7), ("vq", 0.7), ("fsq", 0.7), ("wan21", 126.9), ("wan22", 704.7)],
)
def test_vae(arg, millions):
  count = check(vae.get_config, arg)
  if arg.startswith("wan"):
    params, _ = Skeleton.of(vae.WAN[arg].make).abstract
    count = sum(np.prod(value.shape) for value in params.values())
  assert count / 1e6 == pytest.approx(millions, rel=0.3 if millions < 1 else 1e-3)


# Wan's count of 1.3b and 14b, which has no null caption; DiT's own sizes have no text.
@pytest.mark.parametrize(
  ("size", "billions"),
  [("S", 0.031), ("B", 0.12), ("L", 0.41), ("XL", 0.60), ("1.3b", 1.42), ("5b", 5.0),
   ("14b", 14.29), ("30b", 29.3)],
)  # fmt: skip
def test_t2v(size, billions):
  count = check(t2v.get_config, size)
  assert count / 1e9 == pytest.approx(billions, rel=0.03)
  backbone = t2v.get_config(size).objective.model.backbone
  flops = backbone.forward_flops(jax.numpy.asarray([1000]), jax.numpy.asarray([0]))
  # Two a parameter and token, less what text alone goes through.
  assert 0.6 * 2000 * count < flops < 1.2 * 2000 * count


# What the published folders of transformers say of themselves.
_14B = (40, 128, 13824, 40, 16)
PUBLISHED = {
  "t2v-1.3b": (12, 128, 8960, 30, 16, 16, None), "t2v-14b": (*_14B, 16, None),
  "i2v-14b": (*_14B, 36, 1280), "ti2v-5b": (24, 128, 14336, 30, 48, 48, None),
  "a14b-high": (*_14B, 16, None), "a14b-low": (*_14B, 16, None),
}  # fmt: skip


@pytest.mark.parametrize(("arg", "published"), PUBLISHED.items())
def test_wan(arg, published):
  count = check(wan.get_config, arg)
  assert count > 1e9
  config = wan.get_config(arg)
  theirs = wan_weights.config_to_reference(config.objective.model.backbone)
  names = ("num_attention_heads", "attention_head_dim", "ffn_dim", "num_layers",
           "out_channels", "in_channels", "image_dim")  # fmt: skip
  assert tuple(theirs[name] for name in names) == published
  with pytest.raises(ValueError, match=r"give --config\.warm_start\.path"):
    config.warm_start.apply(config.objective, {})


@pytest.mark.parametrize("stage", sorted(t2v.STAGES))
def test_t2v_stages_hold_their_largest_clip(stage):
  config = t2v.get_config(f"1.3b-{stage}")
  tokens = {"image": 64 * 64, "480p": 21 * 30 * 52, "720p": 21 * 45 * 80}[stage]
  assert tokens <= config.data.tokens_per_row < 2.01 * tokens
  assert config.data.tokens_per_row % config.objective.model.backbone.attention.block == 0


@pytest.mark.parametrize("module", [demo, t2v, vae, wan])
def test_wrong_arguments_are_named(module):
  with pytest.raises(ValueError, match=r"takes (one of|SIZE)"):
    module.get_config("nonsense")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("[!_]*.py")), ids=lambda p: p.stem)
def test_config_files_say_how_to_run_them(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  assert f"--config=configs/{path.name}" in module.__doc__
