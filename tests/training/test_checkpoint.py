"""Checkpoints: damaged ones, unfinished ones, full disks, shares of several processes."""

import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.training import checkpoint, guard
from sora_jax.training.state import TrainState
from sora_jax.weights import folders


def small_state(seed: int) -> TrainState:
  rng = np.random.default_rng(seed)
  arrays = {f"layer{i}.kernel": jnp.asarray(rng.normal(size=(64, 40))) for i in range(3)}
  return TrainState(
    step=jnp.int32(seed), params=arrays, ema={}, other={},
    opt_state={k: 2 * x for k, x in arrays.items()}, guard=guard.initial(),
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
  # The manifest is written last: a step without one was not finished.
  assert restore(tmp_path / "a")[0] == 1
  assert "checkpoint 2 cannot be used and is set aside" in capsys.readouterr().err
  # Unless no step has one.
  shutil.copytree(saved, tmp_path / "a", dirs_exist_ok=True)
  for path in (tmp_path / "a" / "checkpoints").glob("*/manifest.json"):
    path.unlink()
  assert restore(tmp_path / "a")[0] == 2
  assert "nor has any: it is taken unchecked" in capsys.readouterr().out
  # Then what Orbax itself notices still costs that step only.
  for path in files_of(tmp_path / "a", 2):
    if path.parent.name == "d":
      path.write_bytes(b"")
  assert restore(tmp_path / "a")[0] == 1
  for path in files_of(tmp_path / "a", 1):
    path.unlink()
  for _ in range(2):  # and the next time it is still no new run
    with pytest.raises(ValueError, match="none of the checkpoints"):
      restore(tmp_path / "a")


def test_going_back_deletes_nothing_before_it_has_found_something(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "a")
  saver = checkpoint.Checkpointer(tmp_path / "a", keep=3)
  saver.save(small_state(3), {}, step=3)
  with pytest.raises(ValueError, match=r"a checkpoint below step 1 .* there is none"):
    saver.roll_back(small_state(0), before=1)
  path = max(files_of(tmp_path / "a", 2), key=lambda p: p.stat().st_size)
  path.write_bytes(path.read_bytes()[1:])
  step, state = saver.roll_back(small_state(0), before=3)
  assert step == 1 and int(state.step) == 1
  saver.close()
  assert sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir()) == ["1"]


def test_no_manifest_for_want_of_room_is_told(saved, tmp_path, monkeypatch, capsys):
  shutil.copytree(saved, tmp_path / "a")
  saver = checkpoint.Checkpointer(tmp_path / "a")
  with monkeypatch.context() as patched:
    patched.setattr(folders, "sha256", lambda path: (_ for _ in ()).throw(OSError(28, "x")))
    with pytest.raises(OSError, match="step 3 could not be saved"):
      saver.save_last(small_state(3), {}, step=3)
  assert "no manifest for checkpoint 3 yet" in capsys.readouterr().err
  saver.close()  # there is room again
  assert restore(tmp_path / "a")[0] == 3


def test_shares_of_several_processes(tmp_path):
  """Each hashes its own, any number of them checks, and any damage is found."""
  for i in range(7):
    (tmp_path / f"{i}.bin").write_bytes(bytes([i]) * (i + 1))
  for number in range(3):
    assert not folders.is_sealed(tmp_path) and not folders.verify(tmp_path)
    folders.write_manifest(tmp_path, (number, 3))
  assert folders.is_sealed(tmp_path) and folders.verify(tmp_path)
  (tmp_path / "5.bin").write_bytes(b"wrong!")
  found = 0
  for number in range(4):
    try:
      assert folders.verify(tmp_path, share=(number, 4))
    except ValueError as error:
      assert "5.bin is not what was written" in str(error)
      found += 1
  assert found == 1
  # Turned down, sizes are still checked, and of the hashes a part.
  assert folders.verify(tmp_path, sampled=0.0)
  seen = set()
  for _ in range(60):
    try:
      seen.add(folders.verify(tmp_path, sampled=0.4))
    except ValueError:
      seen.add(False)
  assert seen == {True, False}
  (tmp_path / "5.bin").write_bytes(b"longer!")
  with pytest.raises(ValueError, match=r"5\.bin"):
    folders.verify(tmp_path, sampled=0.0)


def test_some_checkpoints_are_kept_for_good(tmp_path):
  saver = checkpoint.Checkpointer(tmp_path, keep=2, keep_every=3)
  for step in range(1, 9):
    saver.save(small_state(step), {}, step=step)
  saver.close()
  kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
  assert kept == [3, 6, 7, 8]


def test_sampling_refuses_a_damaged_step(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "a")
  path = next(p for p in files_of(tmp_path / "a", 2) if "params" in p.parts)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match="is not what was written"):
    checkpoint.restore_model(tmp_path / "a", (small_state(0).params, {}), ema=False)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(saved, tmp_path, capsys):
  shutil.copytree(saved, tmp_path / "a")
  saver = checkpoint.Checkpointer(tmp_path / "a")
  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")

  saver._manager.save = full
  saver.save(small_state(3), {}, step=3)
  told = capsys.readouterr().err
  assert "No space left on device" in told and "newest good step is 2" in told
  saver.save(small_state(4), {"0": {}}, step=4)  # there is room again
  saver.close()
  assert restore(tmp_path / "a")[0] == 4


def test_the_end_of_a_run_that_cannot_be_saved_is_an_error(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "a")
  saver = checkpoint.Checkpointer(tmp_path / "a")
  saver._save = lambda *args, **kwargs: None
  with pytest.raises(OSError, match=r"step 3 could not be saved in .* make room"):
    saver.save_last(small_state(3), {}, step=3)
