"""Orbax checkpoints: state, moving average, data position; trusted, or set aside.

  WORKDIR/checkpoints/STEP/...   params, ema, other, opt, guard, meta (step, data
                                 position), and manifests: sha256 of all files
  WORKDIR/damaged/...            steps whose files are not what was written

The data position is one small state per row of the global batch, keyed by the row, so a
run can be resumed on any number of processes.

Used by: training/loop.py, generation/load.py.
"""

import contextlib
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers, checkpoint_utils

from sora_jax import distributed
from sora_jax.training import metrics, seals
from sora_jax.training.state import TrainState
from sora_jax.weights import folders

# Of a checkpoint, in bytes: several threads can hash several files, or only some of them.
_FILE_SIZE = 64 << 20
_DAMAGED_KEPT = 4  # folders in WORKDIR/damaged


class Checkpointer:
  """Saves and restores TrainStates; saving goes on in the background.

  A step that is complete gets manifests with the sha256 of its files, last of all. On the
  way back they are checked; a step that is damaged, or has none, is set aside, and an
  older one taken. Every process hashes its share of the files, both ways.
  """

  def __init__(
    self, workdir: str | pathlib.Path, *, every: int = 1, keep: int = 2,
    keep_every: int = 0, verify: float = 1.0,
  ):  # fmt: skip
    """Saves each `every` steps, keeps the newest `keep` and each multiple of `keep_every`;
    hashes a part `verify` of the files before they are used.
    """
    self._directory = pathlib.Path(workdir).absolute() / "checkpoints"
    self._damaged = self._directory.with_name("damaged")
    self._every, self._keep, self._keep_every = every, keep, keep_every
    self._verify = verify
    self._seals = seals.Seals(self._directory)
    self._open()

  def _open(self) -> None:
    kept = [checkpoint_managers.LatestN(self._keep)]
    if self._keep_every:
      kept.append(checkpoint_managers.EveryNSteps(self._keep_every))
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(self._every),
      ),
    )

  def _folder(self, step: int) -> pathlib.Path:
    return self._directory / str(step)

  def save(self, state: TrainState, data_state: dict[str, Any], *, step: int) -> None:
    """Saves where the interval says so; returns before the write is complete."""
    self._seals.write()
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
    saved = step in ocp.utils.checkpoint_steps(self._directory)
    if not saved or self._seals.lacks(step):
      raise OSError(
        f"step {step} could not be saved in {self._directory}, see above: make room there, "
        "and run the same command again"
      )

  def _wait(self) -> None:
    try:
      self._manager.wait_until_finished()
    except Exception as error:
      self._failed(error)
    self._seals.write(wait=True)

  def _save(self, state: TrainState, data_state, step: int, force: bool = False) -> None:
    meta = {"step": step, "data": distributed.gather_states(data_state)}
    items = {
      name: ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=_FILE_SIZE)
      for name, tree in _items(state).items()
    }
    arguments = ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items)
    try:
      self._manager.save(step, args=arguments, force=force)
      self._seals.add(step)
    except Exception as error:
      self._failed(error)

  def _failed(self, error: Exception) -> None:
    """A full disk costs a checkpoint, not the run: what is saved already stays."""
    kept = max(ocp.utils.checkpoint_steps(self._directory), default=None)
    metrics.tell(
      f"WARNING: a checkpoint could not be saved ({type(error).__name__}: "
      f"{str(error).splitlines()[0] if str(error) else ''}); training goes on, the newest "
      f"good step is {kept}"
    )
    with contextlib.suppress(Exception):
      self._manager.close()
    self._open()

  def restore_newest(
    self, like: TrainState, *, below: int | None = None
  ) -> tuple[int, TrainState, dict[str, Any]]:
    """(step, state, data position) of the newest good step; (0, like, {}) if none.

    Args:
      like: gives shapes, dtypes and shardings.
      below: only steps below this one, if given.

    Raises:
      ValueError: there are steps, or were, and none of them is good.
    """
    while True:
      step, has_older = self._newest(below)
      if step is None and below is None and any(self._damaged.glob("*")):
        raise ValueError(
          f"none of the checkpoints in {self._directory} is good; they are set aside in "
          f"{self._damaged}: move one back, or choose another workdir"
        )
      if step is None:
        return 0, like, {}
      try:
        checked = seals.verify(self._folder(step), sampled=self._verify)
        if not checked and has_older:
          raise ValueError("it has no manifest, so its writing was not finished")
      except ValueError as error:
        self._set_aside(step, error)
        continue
      if not checked and distributed.is_primary():
        print(f"checkpoint {step} has no manifest, nor has any: it is taken unchecked")
      self._manager.reload()  # on every process, or they would not save alike
      try:
        return step, *self.restore(like, step)
      except Exception as error:
        # Of files that are what was written, it is the run that is another one.
        if checked:
          raise
        self._set_aside(step, error)

  def roll_back(self, like: TrainState, *, before: int) -> tuple[int, TrainState]:
    """(step, state) of the newest good step below `before`; later ones are deleted.

    Raises:
      ValueError: there is none; then nothing is deleted.
    """
    self._wait()
    step, state, _ = self.restore_newest(like, below=before)
    if not step:
      raise ValueError(
        f"the guard wants a checkpoint below step {before} to go back to, and there is "
        "none: keep more of them (--config.keep_checkpoints), or save them less often"
      )
    for later in self._manager.all_steps():
      if later > step:
        self._manager.delete(later)
    return step, state

  def _newest(self, below: int | None) -> tuple[int | None, bool]:
    """(newest step, whether there is an older one with manifests).

    As the primary process sees it, for all of them.
    """
    steps = [
      step for step in ocp.utils.checkpoint_steps(self._directory)
      if below is None or step < below
    ]  # fmt: skip
    newest = max(steps, default=-1)
    older = any(folders.is_sealed(self._folder(step)) for step in steps if step < newest)
    if not distributed.is_alone():
      told = multihost_utils.broadcast_one_to_all(np.int32([newest, older]))
      newest, older = int(told[0]), bool(told[1])
    return (None if newest < 0 else newest), older

  def _set_aside(self, step: int, error: Exception) -> None:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if distributed.is_primary():
      self._damaged.mkdir(exist_ok=True)
      for oldest in sorted(self._damaged.iterdir(), key=_age)[: -_DAMAGED_KEPT + 1]:
        shutil.rmtree(oldest)
      place = self._damaged / f"{step}_{time.time_ns()}"
      self._folder(step).rename(place)
      metrics.tell(
        f"WARNING: checkpoint {step} cannot be used and is set aside in {place}: {reason}"
      )
    distributed.wait_for_all("set aside")

  def restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
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
      guard=restored["guard"],
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
  seals.verify(directory / str(step), within=tuple(items))
  manager = ocp.CheckpointManager(directory)
  restored = manager.restore(
    step,
    args=ocp.args.Composite(**{key: _restore_args(x) for key, x in items.items()}),
  )
  manager.close()
  return restored[name], restored["other"] if other else {}, step


def _age(place: pathlib.Path) -> int:
  return int(place.name.rpartition("_")[2])


def _items(state: TrainState) -> dict[str, Any]:
  """What is saved of a state, by item; Orbax takes no empty ones."""
  items = {
    "params": state.params, "ema": state.ema, "other": state.other,
    "opt": state.opt_state, "guard": state.guard,
  }  # fmt: skip
  return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _restore_args(tree: Any) -> ocp.args.PyTreeRestore:
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
  )
  arguments = checkpoint_utils.construct_restore_args(abstract)
  return ocp.args.PyTreeRestore(abstract, restore_args=arguments)
