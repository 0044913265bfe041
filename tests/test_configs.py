"""Every config file: each argument loads, round-trips, and traces a training step."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from configs import demo
from sora_jax import configlib
from sora_jax.nn.skeleton import Skeleton

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"


def test_this_file_knows_every_config():
  assert {path.stem for path in CONFIGS.glob("*.py")} - {"__init__"} == {"demo"}


@pytest.mark.parametrize("arg", ["vae", "dit", "videos_vae", "videos_dit"])
def test_demo(arg):
  config = demo.get_config(arg)
  assert configlib.from_json(configlib.to_json(config)) == config
  assert hash(config.objective) == hash(demo.get_config(arg).objective)
  skeleton = Skeleton.of(config.objective.make)
  params, _ = skeleton.abstract
  total = sum(np.prod(value.shape) for value in params.values())
  assert 1e5 < total < 1e7
  jax.eval_shape(lambda: config.optimizer.make(10).init(params))


def test_wrong_arguments_are_named():
  with pytest.raises(ValueError, match="takes one of"):
    demo.get_config("nonsense")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("[!_]*.py")), ids=lambda p: p.stem)
def test_config_files_say_how_to_run_them(path):
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  assert f"--config=configs/{path.name}" in module.__doc__
