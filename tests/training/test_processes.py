"""One process = two = four: the same rows, losses and samples; and any resumes any other.

Several processes are started as a user would, by `python -m launch.local`.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sora_jax.training import metrics
from tests.training import train_tiny

SCRIPT = pathlib.Path(__file__).parent / "train_tiny.py"
ROOT = SCRIPT.parent.parent.parent
DEVICES = 8


def launch(num_processes: int, *command: str) -> str:
  """Runs a command in that many processes on loopback, with eight devices in all."""
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  done = subprocess.run(
    [sys.executable, "-m", "launch.local", f"--num_processes={num_processes}",
     f"--devices={DEVICES // num_processes}", "--", sys.executable, *command],
    cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    timeout=400,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
  return done.stdout


def losses(workdir: pathlib.Path) -> list[float]:
  rows = metrics.read(workdir)
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def runs(helpers, latents_path, tmp_path_factory):
  """The workdirs of one run here, in two processes, and in two and then four.

  Each has samples.npz, of the checkpoint at its end.
  """
  folder = tmp_path_factory.mktemp("processes")
  helpers.write_codec(folder / "codec")
  train_tiny.run(latents_path, folder / "1", folder / "codec")
  arguments = str(SCRIPT), latents_path
  launch(2, *arguments, str(folder / "2"), str(folder / "codec"))
  shutil.copytree(folder / "2", folder / "2 then 4")
  shutil.rmtree(folder / "2 then 4" / "checkpoints" / "4")
  launch(4, *arguments, str(folder / "2 then 4"), str(folder / "codec"))
  return folder


def test_two_processes_give_the_losses_of_one(runs):
  np.testing.assert_allclose(losses(runs / "1"), losses(runs / "2"), rtol=1e-5)
  tokens = [[row["useful_tokens"] for row in metrics.read(runs / n)] for n in ("1", "2")]
  assert tokens[0] == tokens[1], "other rows"


def test_a_checkpoint_of_two_processes_is_resumed_by_four(runs):
  np.testing.assert_allclose(losses(runs / "2 then 4"), losses(runs / "1"), rtol=1e-5)


@pytest.mark.parametrize("processes", ["2", "2 then 4"])
def test_several_processes_sample_what_one_samples(runs, processes):
  expected, found = (np.load(runs / n / "samples.npz") for n in ("1", processes))
  assert len(expected) == 2
  for name, latents in expected.items():
    np.testing.assert_allclose(found[name], latents, atol=1e-3)
    assert latents.std() > 0.1
