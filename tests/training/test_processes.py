"""One process = two = four: the same rows, losses and samples; and any resumes any other.

Several processes are started as a user would, by `python -m launch.local`.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from launch import local
from sora_jax import peers
from sora_jax.training import checkpoint, metrics
from tests.training import train_tiny

SCRIPT = pathlib.Path(__file__).parent / "train_tiny.py"
ROOT = SCRIPT.parent.parent.parent
DEVICES = 8


def launch(num_processes: int, *command: str) -> str:
  """Runs a command in that many processes on loopback, with eight devices in all."""
  done = subprocess.run(
    [sys.executable, "-m", "launch.local", f"--num_processes={num_processes}",
     f"--devices={DEVICES // num_processes}", "--", sys.executable, *command],
    cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    timeout=400,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
  return done.stdout


def losses(workdir: pathlib.Path) -> list[float]:
  rows = metrics.read(workdir)
  assert [row["step"] for row in rows] == list(range(1, train_tiny.NUM_STEPS + 1))
  return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def runs(helpers, latents_path, tmp_path_factory):
  """One run here on eight devices, and one that two processes begin and four end."""
  folder = tmp_path_factory.mktemp("processes")
  helpers.write_codec(folder / "codec")
  train_tiny.run(latents_path, folder / "one", folder / "codec")
  arguments = str(SCRIPT), latents_path, str(folder / "several"), str(folder / "codec")
  folder.joinpath("told").write_text(launch(2, *arguments, "SIGTERM"))
  shutil.copytree(folder / "several", folder / "begun")
  launch(4, *arguments)
  return folder


def test_sigterm_on_one_process_saves_and_ends_all(runs):
  """Well before the end, without a word of an error."""
  step = checkpoint.newest_step(runs / "begun")
  assert 3 <= step < train_tiny.NUM_STEPS
  assert f"ended by SIGTERM at step {step}, which is saved" in (runs / "told").read_text()
  assert [row["step"] for row in metrics.read(runs / "begun")] == list(range(1, step + 1))


def test_a_lost_process_is_named_and_ends_the_others(latents_path, tmp_path):
  """Without a launcher that would see it: they find it by themselves, within a minute."""
  port = local.free_port()
  first, killed = (
    subprocess.Popen(
      [sys.executable, str(SCRIPT), latents_path, str(tmp_path), "", "SIGKILL"], cwd=ROOT,
      env=os.environ | local.environment(i, 2, 4, port) | {"PYTHONPATH": str(ROOT)},
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    for i in range(2)
  )  # fmt: skip
  pid = killed.pid
  killed.communicate(timeout=300)
  since = time.monotonic()
  told, _ = first.communicate(timeout=60)
  assert first.returncode == peers.LOST, told[-2000:]
  assert re.search(rf"error: process 1 \(host \S+, pid {pid}\) is lost", told)
  assert time.monotonic() - since < 60


def test_several_processes_give_the_losses_of_one(runs):
  """Two until the SIGTERM, four from there on: the same rows, the same losses."""
  np.testing.assert_allclose(losses(runs / "several"), losses(runs / "one"), rtol=1e-5)
  tokens = [
    [row["useful_tokens"] for row in metrics.read(runs / n)] for n in ("one", "several")
  ]
  assert tokens[0] == tokens[1], "other rows"


def test_several_processes_sample_what_one_samples(runs):
  expected, found = (np.load(runs / n / "samples.npz") for n in ("one", "several"))
  assert len(expected.files) == 2
  for name in expected.files:
    np.testing.assert_allclose(found[name], expected[name], atol=1e-3)
    assert expected[name].std() > 0.1
