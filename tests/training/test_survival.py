"""What a run survives: damaged checkpoints, full disks, SIGTERM, batches that are NaN."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import configlib
from sora_jax.training import checkpoint, loop, metrics
from sora_jax.training.state import TrainState


def small_state(seed: int) -> TrainState:
  rng = np.random.default_rng(seed)
  arrays = {f"layer{i}.kernel": jnp.asarray(rng.normal(size=(64, 40))) for i in range(3)}
  return TrainState(
    step=jnp.int32(seed), params=arrays, ema={}, other={},
    opt_state={k: 2 * x for k, x in arrays.items()},
  )  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A workdir with steps 1 and 2."""
  workdir = tmp_path_factory.mktemp("saved")
  saver = checkpoint.Checkpointer(workdir)
  for step in (1, 2):
    saver.save(small_state(step), {"0": {"at": step}}, step=step)
  saver.close()
  return workdir


def restore(workdir: pathlib.Path):
  saver = checkpoint.Checkpointer(workdir)
  try:
    return saver.restore_newest(small_state(0))
  finally:
    saver.close()


def files_of(workdir: pathlib.Path, step: int) -> list[pathlib.Path]:
  found = (workdir / "checkpoints" / str(step)).rglob("*")
  return sorted(path for path in found if path.is_file() and path.stat().st_size)


def test_the_newest_step_comes_back(saved, capsys):
  step, state, data = restore(saved)
  assert (step, data) == (2, {"0": {"at": 2}})
  for name, value in small_state(2).params.items():
    np.testing.assert_array_equal(state.params[name], value)
  assert "unchecked" not in capsys.readouterr().out


@pytest.mark.parametrize("how", ["flip", "truncate"])
def test_every_one_of_fifty_damages_is_found(saved, tmp_path, how):
  """Anywhere in the step's files, weighted by their size; step 1 is taken instead."""
  rng = np.random.default_rng(0)
  files = files_of(saved, 2)
  sizes = np.array([path.stat().st_size for path in files])
  for number in range(50):
    workdir = tmp_path / str(number)
    shutil.copytree(saved, workdir)
    path = files[rng.choice(len(files), p=sizes / sizes.sum())]
    path = workdir / path.relative_to(saved)
    content = bytearray(path.read_bytes())
    place = rng.integers(len(content))
    if how == "flip":
      content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content if how == "flip" else content[:place])
    step, state, data = restore(workdir)
    assert (step, data) == (1, {"0": {"at": 1}}), path
    np.testing.assert_array_equal(
      state.params["layer0.kernel"], small_state(1).params["layer0.kernel"]
    )
    (aside,) = (workdir / "damaged").iterdir()
    assert aside.name.startswith("2_")
    shutil.rmtree(workdir)


def test_missing_files_and_manifests(saved, tmp_path, capsys):
  shutil.copytree(saved, tmp_path / "a")
  (tmp_path / "a" / "checkpoints" / "2" / "manifest.json").unlink()
  assert restore(tmp_path / "a")[0] == 2
  assert "checkpoint 2 has no manifest: it is taken unchecked" in capsys.readouterr().out
  # Without a manifest, what Orbax itself notices still costs that step only.
  for path in files_of(tmp_path / "a", 2):
    if path.parent.name == "d":
      path.write_bytes(b"")
  assert restore(tmp_path / "a")[0] == 1
  for path in files_of(tmp_path / "a", 1):
    path.unlink()
  with pytest.raises(ValueError, match="none of the checkpoints"):
    restore(tmp_path / "a")


def test_sampling_refuses_a_damaged_step(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "a")
  path = next(p for p in files_of(tmp_path / "a", 2) if "params" in p.parts)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match="is not what was written"):
    checkpoint.restore_model(tmp_path / "a", (small_state(0).params, {}), ema=False)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(saved, tmp_path, capsys):
  shutil.copytree(saved, tmp_path / "a")
  saver = checkpoint.Checkpointer(tmp_path / "a")
  real = saver._manager.save

  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  saver._manager.save = full
  saver.save(small_state(3), {}, step=3)
  told = capsys.readouterr().err
  assert "No space left on device" in told and "newest good step is 2" in told
  saver.save(small_state(4), {"0": {}}, step=4)  # there is room again
  saver.close()
  assert restore(tmp_path / "a")[0] == 4
  assert real is not full


def test_the_end_of_a_run_that_cannot_be_saved_is_an_error(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "a")
  saver = checkpoint.Checkpointer(tmp_path / "a")
  saver._save = lambda *args, **kwargs: None
  with pytest.raises(OSError, match=r"step 3 could not be saved in .* make room"):
    saver.save_last(small_state(3), {}, step=3)


@configlib.config
class Trouble:
  """The tiny run's batches, with something happening at one of them."""

  inner: object
  at: int
  what: str
  rows: int = 8

  def open(self, rows):
    return _Troubled(self.inner.open(rows), self)


class _Troubled:
  def __init__(self, batches, config):
    self._batches, self._config, self._number = batches, config, 0

  def __next__(self):
    batch = next(self._batches)
    if self._number == self._config.at:
      if self._config.what == "nan":
        batch.tokens[:, :3] = np.nan
      else:
        os.kill(os.getpid(), signal.SIGTERM)
    self._number += 1
    return batch

  def get_state(self):
    return self._batches.get_state()

  def set_state(self, state):
    self._batches.set_state(state)


def test_a_batch_of_nan_changes_nothing_and_is_listed(
  helpers, latents_path, tmp_path, capsys
):
  config = helpers.tiny_config(latents_path, num_steps=5, ema_decay=None)
  config.data = Trouble(inner=config.data, at=2, what="nan")
  end = loop.train(config, tmp_path)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(end) if x.dtype == jnp.float32)
  rows = metrics.read(tmp_path)
  assert [row["skipped"] for row in rows] == [0, 0, 1, 0, 0]
  (listed,) = (tmp_path / "skipped_0.jsonl").read_text().splitlines()
  listed = json.loads(listed)
  assert listed["step"] == 3 and len(listed["clip_ids"]) > 8
  assert "step 3 left out: loss nan" in capsys.readouterr().err
  assert int(end.step) == 5


def test_sigterm_ends_a_run_with_a_checkpoint(helpers, latents_path, tmp_path, capsys):
  """And the same command ends it with the bits of a run without."""
  config = helpers.tiny_config(latents_path, num_steps=12, checkpoint_every=100)
  whole = loop.train(config, tmp_path / "whole")
  troubled = dataclasses.replace(
    config, data=Trouble(inner=config.data, at=4, what="sigterm")
  )
  loop.train(troubled, tmp_path / "a")
  step = checkpoint.newest_step(tmp_path / "a")
  assert 1 <= step < 12
  assert f"ended by SIGTERM at step {step}" in capsys.readouterr().out
  troubled.data.at = 1000
  shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "a" / "config.json")
  end = loop.train(config, tmp_path / "a")
  for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(whole)):
    np.testing.assert_array_equal(a, b)
