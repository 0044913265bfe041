"""Orbax checkpoints: state, moving average, data position, and the config beside them.

  WORKDIR/config.json            the config tree
  WORKDIR/checkpoints/STEP/...   params, ema, other, opt, meta (step, data position),
                                 manifest.json (sha256 of all files)
  WORKDIR/damaged/...            steps whose files are not what was written

The data position is one small state per row of the global batch, keyed by the row, so a
run can be resumed on any number of processes.

Used by: training/loop.py, generation/load.py.
"""

import contextlib
import pathlib
import sys
import threading
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers, checkpoint_utils

from sora_jax import configlib, distributed
from sora_jax.training import config as train_config
from sora_jax.training.state import TrainState
from sora_jax.weights import folders


def claim_workdir(workdir: pathlib.Path, config: Any) -> None:
  """Writes config.json, or checks it against the one that stands.

  Raises:
    ValueError: the workdir belongs to a run with another config, or is a URL.
  """
  if workdir.parts[:1] == ("gs:",):
    raise ValueError(
      "--workdir=gs://... is not a folder: mount the bucket, as the launchers do with "
      "--bucket, and give /gcs/..."
    )
  path = workdir / "config.json"
  if path.exists():
    theirs = configlib.from_json(path.read_text())
    changes = [
      line for line in configlib.differences(theirs, config)
      if line.split(":")[0].split(".")[0] not in train_config.NEUTRAL
    ]  # fmt: skip
    if changes:
      raise ValueError(
        f"{workdir} holds a run with another config:\n  " + "\n  ".join(changes) + "\n"
        "Choose another --workdir, or give the options of that run to resume it."
      )
  if distributed.is_primary():
    workdir.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(configlib.to_json(config))
    partial.rename(path)


# What stands for a step where there is none to restore.
_NONE, _ALL_BAD = -1, -2


class Checkpointer:
  """Saves and restores TrainStates; saving goes on in the background.

  A step that is complete gets a manifest with the sha256 of its files. On the way back
  they are checked; a step that is damaged is set aside, and an older one taken.
  """

  def __init__(self, workdir: str | pathlib.Path, *, every: int = 1, keep: int = 2):
    self._directory = pathlib.Path(workdir).absolute() / "checkpoints"
    self._damaged = self._directory.with_name("damaged")
    self._every, self._keep = every, keep
    self._unsealed: set[int] = set()  # saved, and without a manifest yet
    self._sealing: threading.Thread | None = None
    self._open()

  def _open(self) -> None:
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(self._keep),
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(self._every),
      ),
    )

  def _seal(self, *, wait: bool = False) -> None:
    """Writes the manifests of steps that are complete by now, in a thread."""
    if self._sealing is not None and (wait or not self._sealing.is_alive()):
      self._sealing.join()
      self._sealing = None
    complete = {step for step in self._unsealed if self._folder(step).is_dir()}
    if self._sealing is None and complete and distributed.is_primary():
      self._unsealed -= complete
      self._sealing = threading.Thread(target=self._write_manifests, args=(complete,))
      self._sealing.start()
      if wait:
        self._seal(wait=True)

  def _write_manifests(self, steps: set[int]) -> None:
    for step in steps:
      # The step may be deleted meanwhile, because newer ones are there.
      with contextlib.suppress(OSError):
        folders.write_manifest(self._folder(step))

  def _folder(self, step: int) -> pathlib.Path:
    return self._directory / str(step)

  def save(self, state: TrainState, data_state: dict[str, Any], *, step: int) -> None:
    """Saves where the interval says so; returns before the write is complete."""
    self._seal()
    if step % self._every == 0:
      self._save(state, data_state, step)

  def save_last(self, state: TrainState, data_state: dict[str, Any], *, step: int) -> None:
    """Saves unless this step is saved already, and waits for the write.

    Raises:
      OSError: it could not be written.
    """
    if self._manager.latest_step() != step:
      self._save(state, data_state, step, force=True)
    self._wait()
    if step not in ocp.utils.checkpoint_steps(self._directory):
      raise OSError(
        f"step {step} could not be saved in {self._directory}, see above: make room there, "
        "and run the same command again"
      )

  def _wait(self) -> None:
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      self._failed(error)
    self._seal(wait=True)

  def _save(self, state: TrainState, data_state, step: int, force: bool = False) -> None:
    meta = {"step": step, "data": distributed.gather_states(data_state)}
    items = {name: ocp.args.PyTreeSave(tree) for name, tree in _items(state).items()}
    arguments = ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items)
    try:
      self._manager.save(step, args=arguments, force=force)
      self._unsealed.add(step)
    except Exception as error:
      self._failed(error)

  def _failed(self, error: Exception) -> None:
    """A full disk costs a checkpoint, not the run: what is saved already stays."""
    kept = max(ocp.utils.checkpoint_steps(self._directory), default=None)
    print(
      f"WARNING: a checkpoint could not be saved ({type(error).__name__}: "
      f"{str(error).splitlines()[0] if str(error) else ''}); training goes on, the newest "
      f"good step is {kept}", file=sys.stderr, flush=True,
    )  # fmt: skip
    with contextlib.suppress(Exception):
      self._manager.close()
    self._open()

  def restore_newest(
    self, like: TrainState
  ) -> tuple[int, TrainState, dict[str, Any]]:
    """(step, state, data position) of the newest good step; (0, like, {}) if none.

    Raises:
      ValueError: there are steps, and none of them is good.
    """
    bad = []
    while True:
      step, checked = _agreed(*self._newest_good(bad))
      self._manager.reload()  # on every process, or they would not save alike
      if step == _NONE:
        return 0, like, {}
      if step == _ALL_BAD:
        raise ValueError(
          f"none of the checkpoints in {self._directory} is good; they are set aside in "
          f"{self._damaged}:\n  " + "\n  ".join(bad)
        )
      try:
        return step, *self.restore(like, step)
      except Exception as error:
        # Of files that are what was written, it is the run that is another one.
        if checked:
          raise
        bad += self._set_aside(step, error)

  def _newest_good(self, bad: list[str]) -> tuple[int, bool]:
    """(newest step without known damage, whether a manifest says so).

    The primary process looks; the others are told.
    """
    if not distributed.is_primary():
      return _NONE, False
    for step in sorted(ocp.utils.checkpoint_steps(self._directory), reverse=True):
      try:
        checked = folders.verify(self._folder(step))
      except ValueError as error:
        bad += self._set_aside(step, error)
        continue
      if not checked:
        print(f"checkpoint {step} has no manifest: it is taken unchecked")
      return step, checked
    return _ALL_BAD if bad else _NONE, False

  def _set_aside(self, step: int, error: Exception) -> list[str]:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if distributed.is_primary():
      self._damaged.mkdir(exist_ok=True)
      place = self._damaged / f"{step}_{time.strftime('%Y%m%d_%H%M%S')}"
      self._folder(step).rename(place)
      print(f"WARNING: checkpoint {step} is damaged and set aside in {place}: {reason}",
            file=sys.stderr, flush=True)  # fmt: skip
    return [f"step {step}: {reason}"]

  def restore(
    self, like: TrainState, step: int
  ) -> tuple[TrainState, dict[str, Any]]:
    """(state, data position) of a step; `like` gives shapes, dtypes and shardings."""
    items = _items(like)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        meta=ocp.args.JsonRestore(),
        **{name: _restore_args(tree) for name, tree in items.items()},
      ),
    )
    state = TrainState(
      step=jax.device_put(np.int32(restored.meta["step"]), like.step.sharding),
      params=restored["params"],
      ema=restored["ema"] if "ema" in items else like.ema,
      other=restored["other"] if "other" in items else like.other,
      opt_state=restored["opt"],
    )
    return state, restored.meta["data"]

  def close(self) -> None:
    self._wait()
    self._manager.close()


def newest_step(workdir: str | pathlib.Path) -> int:
  """The newest complete step of a run.

  Raises:
    ValueError: the workdir has no complete checkpoint.
  """
  directory = pathlib.Path(workdir).absolute() / "checkpoints"
  steps = ocp.utils.checkpoint_steps(directory) if directory.is_dir() else []
  if not steps:
    raise ValueError(f"{workdir} has no checkpoint; train it first, or mend --workdir")
  return max(steps)


def restore_model(workdir: pathlib.Path, abstract: tuple, *, ema: bool) -> tuple:
  """(params, other, step) of the newest checkpoint, for sampling and evaluation.

  Args:
    workdir: of the run.
    abstract: (params, other) as ShapeDtypeStructs, with shardings where wanted.
    ema: the moving average, where the run kept one, instead of the raw parameters.

  Raises:
    ValueError: the workdir has no complete checkpoint, or the newest one is damaged.
  """
  directory = pathlib.Path(workdir).absolute() / "checkpoints"
  step = newest_step(workdir)
  params, other = abstract
  kept = (directory / str(step) / "ema").exists()
  name = "ema" if ema and kept else "params"
  items = {name: params} | ({"other": other} if other else {})
  folders.verify(directory / str(step), within=tuple(items))
  manager = ocp.CheckpointManager(directory)
  restored = manager.restore(
    step,
    args=ocp.args.Composite(**{key: _restore_args(x) for key, x in items.items()}),
  )
  manager.close()
  return restored[name], restored["other"] if other else {}, step


def _agreed(step: int, checked: bool) -> tuple[int, bool]:
  """The primary process's answer, on all of them."""
  if distributed.is_alone():
    return step, checked
  told = multihost_utils.broadcast_one_to_all(np.int32([step, checked]))
  return int(told[0]), bool(told[1])


def _items(state: TrainState) -> dict[str, Any]:
  """What is saved of a state, by item; Orbax takes no empty ones."""
  items = {
    "params": state.params, "ema": state.ema, "other": state.other,
    "opt": state.opt_state,
  }  # fmt: skip
  return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _restore_args(tree: Any) -> ocp.args.PyTreeRestore:
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )
  arguments = checkpoint_utils.construct_restore_args(abstract)
  return ocp.args.PyTreeRestore(abstract, restore_args=arguments)
