"""Orbax checkpoints: state, moving average, data position, and the config beside them.

  WORKDIR/config.json            the config tree
  WORKDIR/checkpoints/STEP/...   params, ema, other, opt, meta (step, data position)

The data position is one small state per row of the global batch, keyed by the row, so a
run can be resumed on any number of processes.

Used by: training/loop.py, generation/load.py.
"""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers, checkpoint_utils

from sora_jax import configlib, distributed
from sora_jax.training import config as train_config
from sora_jax.training.state import TrainState


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


class Checkpointer:
  """Saves and restores TrainStates; saving goes on in the background."""

  def __init__(self, workdir: str | pathlib.Path, *, every: int = 1, keep: int = 2):
    directory = pathlib.Path(workdir).absolute() / "checkpoints"
    self._every = every
    self._manager = ocp.CheckpointManager(
      directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.LatestN(keep),
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(every),
      ),
    )

  def latest_step(self) -> int | None:
    """The newest complete step."""
    return self._manager.latest_step()

  def save(self, state: TrainState, data_state: dict[str, Any], *, step: int) -> None:
    """Saves where the interval says so; returns before the write is complete."""
    if step % self._every == 0:
      self._save(state, data_state, step)

  def save_last(self, state: TrainState, data_state: dict[str, Any], *, step: int) -> None:
    """Saves unless this step is saved already, and waits for the write."""
    if self._manager.latest_step() != step:
      self._save(state, data_state, step, force=True)
    self._manager.wait_until_finished()

  def _save(self, state: TrainState, data_state, step: int, force: bool = False) -> None:
    meta = {"step": step, "data": distributed.gather_states(data_state)}
    items = {name: ocp.args.PyTreeSave(tree) for name, tree in _items(state).items()}
    self._manager.save(
      step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items), force=force
    )

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
    ValueError: the workdir has no complete checkpoint.
  """
  directory = pathlib.Path(workdir).absolute() / "checkpoints"
  step = newest_step(workdir)
  manager = ocp.CheckpointManager(directory)
  params, other = abstract
  kept = (directory / str(step) / "ema").exists()
  name = "ema" if ema and kept else "params"
  items = {name: params} | ({"other": other} if other else {})
  restored = manager.restore(
    step,
    args=ocp.args.Composite(**{key: _restore_args(x) for key, x in items.items()}),
  )
  manager.close()
  return restored[name], restored["other"] if other else {}, step


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
