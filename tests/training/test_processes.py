"""One process = two processes: the same rows, the same losses, and a way back."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from launch import local
from sora_jax.training import metrics

SCRIPT = pathlib.Path(__file__).parent / "train_tiny.py"
ROOT = SCRIPT.parent.parent.parent
DEVICES = 8


def train(path: str, workdir: pathlib.Path, num_processes: int) -> None:
  """Runs the tiny training in that many processes on loopback."""
  port, processes = local.free_port(), []
  for i in range(num_processes):
    place = local.environment(i, num_processes, DEVICES // num_processes, port)
    if num_processes == 1:
      place = {k: v for k, v in place.items() if k in ("JAX_PLATFORMS", "XLA_FLAGS")}
    environment = os.environ | place | {"PYTHONPATH": str(ROOT)}
    processes.append(
      subprocess.Popen(
        [sys.executable, str(SCRIPT), path, str(workdir)], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      )
    )  # fmt: skip
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  for process, output in zip(processes, outputs):
    assert process.returncode == 0, output[-3000:]


def losses(workdir: pathlib.Path) -> list[float]:
  rows = metrics.read(workdir)
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def runs(latents_path, tmp_path_factory):
  """The workdirs of the same run in one process and in two."""
  folder = tmp_path_factory.mktemp("processes")
  for num in (1, 2):
    train(latents_path, folder / str(num), num)
  return folder


def test_two_processes_give_the_losses_of_one(runs):
  np.testing.assert_allclose(losses(runs / "1"), losses(runs / "2"), rtol=1e-5)
  efficiencies = [
    [row["useful_tokens"] for row in metrics.read(runs / n)] for n in ("1", "2")
  ]
  assert efficiencies[0] == efficiencies[1], "other rows"


def test_a_checkpoint_of_two_processes_is_resumed_by_one(runs, latents_path, tmp_path):
  shutil.copytree(runs / "2", tmp_path / "copy")
  shutil.rmtree(tmp_path / "copy" / "checkpoints" / "4")
  train(latents_path, tmp_path / "copy", 1)
  np.testing.assert_allclose(losses(tmp_path / "copy"), losses(runs / "1"), rtol=1e-5)
