"""What a run under way survives: SIGTERM, batches that are NaN, spikes of the loss."""

import dataclasses
import json
import os
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import configlib
from sora_jax.training import checkpoint, guard, loop, metrics, preemption, rerun


@configlib.config
class Trouble:
  """The tiny run's batches, with something happening at some of them."""

  inner: object
  at: tuple[int, ...]
  what: str
  rows: int = 8

  def open(self, rows):
    return _Troubled(self.inner.open(rows), self)


class _Troubled:
  def __init__(self, batches, config):
    self._batches, self._config, self._number = batches, config, 0
    self.get_state, self.set_state = batches.get_state, batches.set_state
    self.rejected, self.names = batches.rejected, batches.names

  def __next__(self):
    batch = next(self._batches)
    here = self._number in self._config.at
    self._number += 1
    match self._config.what:
      case "nan" if here:
        batch.tokens[:, :3] = np.nan
      case "spike" if here:
        batch.tokens *= 100
      case "missing" if here:
        return next(self)
      case "sigterm" if here:
        os.kill(os.getpid(), signal.SIGTERM)
    return batch


def with_trouble(config, what: str, *at: int):
  return dataclasses.replace(config, data=Trouble(inner=config.data, at=at, what=what))


def assert_same(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


def test_a_batch_of_nan_changes_nothing_and_is_listed(
  helpers, latents_path, tmp_path, capsys
):
  config = helpers.tiny_config(latents_path, num_steps=5, ema_decay=None)
  config = with_trouble(config, "nan", 2)
  end = loop.train(config, tmp_path)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((end.params, end.opt_state)))
  rows = metrics.read(tmp_path)
  assert [row["skipped"] for row in rows] == [0, 0, 1, 0, 0]
  (listed,) = (tmp_path / "skipped_0.jsonl").read_text().splitlines()
  listed = json.loads(listed)
  assert listed["step"] == 3 and len(listed["clips"]) > 8
  assert listed["clips"][0].startswith(f"{latents_path}#clip")
  assert "step 3 left out: loss nan" in capsys.readouterr().err
  assert int(end.step) == 5
  history = np.asarray(end.guard["history"])
  assert np.isfinite(history[-4:]).all() and np.isnan(history[:-4]).all()
  np.testing.assert_allclose(history[-1, 0], rows[-1]["loss"], rtol=1e-6)

  # The stored batch tells where it came from, without the data.
  told = "\n".join(rerun.rerun(config, tmp_path, 3))
  assert "the batch has 96 bad values of 'tokens' itself, rows [0, 1, 2, 3" in told
  assert re.search(r"loss nan; gradients that are not finite: \d+ of \d+, such as", told)
  assert "invalid value (nan)" in told and "objectives/diffusion.py" in told
  batch = rerun.load(tmp_path, 3)
  for path in (tmp_path / "skipped").glob("*.npz"):
    arrays = dict(np.load(path))
    arrays[".tokens"] = np.nan_to_num(arrays[".tokens"])
    np.savez(path, **arrays)
  assert batch.segment_ids.max() > 1
  assert "all is finite, and the loss is" in rerun.rerun(config, tmp_path, 3)[-1]
  with pytest.raises(ValueError, match=r"no batch of step 4 .* those of \[3\]"):
    rerun.rerun(config, tmp_path, 4)


def test_a_spike_leads_back_to_a_checkpoint_and_past_its_data(
  helpers, latents_path, tmp_path, capsys, monkeypatch
):
  """As if the batches from that checkpoint on to where it was seen had not been there."""
  config = helpers.tiny_config(latents_path, num_steps=10)
  config.guard = guard.Guard(spike=20.0, window=4, roll_back_after=2)
  end = loop.train(with_trouble(config, "spike", 6, 7), tmp_path / "a")
  assert (tmp_path / "a" / "rollbacks.jsonl").read_text() == '{"from": 8, "to": 6}\n'
  assert "back to checkpoint 6" in capsys.readouterr().err
  rows = metrics.read(tmp_path / "a")
  assert [row["step"] for row in rows] == list(range(1, 11))
  expected = loop.train(with_trouble(config, "missing", 6, 7, 8), tmp_path / "b")
  assert_same(end, expected)

  # Ended between the second spike and the verdict, and resumed: the same.
  with monkeypatch.context() as patched:
    patched.setattr(preemption.Preemption, "reached", lambda self, step: step == 8)
    loop.train(with_trouble(config, "spike", 6, 7), tmp_path / "c")
  assert checkpoint.newest_step(tmp_path / "c") == 8
  (tmp_path / "c" / "config.json").write_text(configlib.to_json(config))
  assert_same(loop.train(config, tmp_path / "c"), expected)


def test_the_guard():
  state = guard.initial()
  rule = guard.Guard(spike=5.0, window=8, roll_back_after=2, stop_after=3)
  for number in range(12):
    loss = jnp.float32(1.0 + 0.1 * (number % 3))
    assert not rule.spikes(state, 1e9 if number < 8 else loss), "the window is not full"
    state = guard.after(state, loss, jnp.float32(number), jnp.bool_(True))
  assert rule.spikes(state, jnp.float32(2.0)) and not guard.Guard().spikes(state, 2.0)
  assert not rule.spikes(state, jnp.float32(1.3))
  before = state
  state = guard.after(state, jnp.float32(jnp.nan), jnp.float32(0), jnp.bool_(False))
  np.testing.assert_array_equal(state["history"], before["history"])
  assert int(state["left_out"]) == 1
  assert [rule.rolls_back(n) for n in range(3)] == [False, False, True]
  with pytest.raises(ValueError, match="3 updates in a row were left out"):
    rule.rolls_back(3)
  for wrong in ({"window": 0}, {"spike": -1.0}, {"roll_back_after": 50}):
    with pytest.raises(ValueError, match=f"guard.*{next(iter(wrong))}="):
      guard.Guard(**wrong).check()


def test_sigterm_ends_a_run_with_a_checkpoint(helpers, latents_path, tmp_path, capsys):
  """And the same command ends it with the bits of a run without."""
  config = helpers.tiny_config(latents_path, num_steps=12, checkpoint_every=100)
  whole = loop.train(config, tmp_path / "whole")
  loop.train(with_trouble(config, "sigterm", 4), tmp_path / "a")
  step = checkpoint.newest_step(tmp_path / "a")
  assert 1 <= step < 12
  assert f"ended by SIGTERM at step {step}" in capsys.readouterr().out
  shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "a" / "config.json")
  end = loop.train(config, tmp_path / "a")
  assert_same(end, whole)
