"""What becomes of each step, told where users look: bar, logs, files of the workdir.

  WORKDIR/skipped_PROCESS.jsonl       updates that were left out, and the clips in them
  WORKDIR/skipped/STEP_PROCESS.npz    their batches, the first ones, for `--debug_nans`
  WORKDIR/quarantine_PROCESS.jsonl    records of the data that could not be used

Every process writes its own, because each knows its own rows only.
Used by: training/loop.py.
"""

import contextlib
import pathlib
from typing import Any

import jax
import numpy as np

from sora_jax import api, distributed
from sora_jax.training import metrics
from sora_jax.training.config import TrainConfig

_STORED_BATCHES = 8  # of updates that were left out, in a workdir


class Report:
  """Reads the metrics of each step, and tells."""

  def __init__(
    self, config: TrainConfig, workdir: pathlib.Path, batches: api.BatchIterator,
    first: int,
  ):  # fmt: skip
    """Of a run that goes on behind step `first`."""
    self._config, self._workdir, self._batches = config, workdir, batches
    self._log = metrics.MetricLog(
      workdir, first_step=first, wandb_project=config.wandb_project
    )
    self._window, self._profiler = metrics.Window(), metrics.Profiler(workdir)
    self._bar = metrics.progress(
      config.num_steps, initial=first, desc=workdir.name, unit="step"
    )
    rollbacks = metrics.read_rows(workdir / "rollbacks.jsonl")
    self._rollbacks = len(rollbacks)
    # The checkpoint that the guard went back to last.
    self.rolled_to: int | None = rollbacks[-1]["to"] if rollbacks else None
    # Each row of the quarantine, by all of its values: its reason.
    quarantined = metrics.read_rows(self._quarantine)
    self._bad = {tuple(row.values()): row["reason"] for row in quarantined}

  def step(self, number: int, values: Any, waited: float, batch: Any) -> int:
    """Tells of a step; returns how many updates in a row were left out by now."""
    values = {k: float(v) for k, v in jax.device_get(values).items()}
    left_out = int(values.pop("left_out"))
    self._note_bad_records()
    if left_out:
      self._skipped(number, values, batch)
    self._profiler.step()
    self._window.add(values, waited)
    self._bar.update(number - self._bar.n)
    if number % self._config.log_every == 0 or number == self._config.num_steps:
      self._summary(number)
    return left_out

  def _summary(self, number: int) -> None:
    # What is too long for a row is told of in part, and is not bad.
    bad = sum(reason != "too_long" for reason in self._bad.values())
    summary = self._window.close() | {"bad_records": bad}
    self._log.write(number, summary)
    shown = {"loss": f"{summary['loss']:.4f}"}
    if "useful_tokens_per_s" in summary:
      shown["tokens/s"] = f"{summary['useful_tokens_per_s']:,.0f}"
    if "mfu" in summary:
      shown["MFU"] = f"{100 * summary['mfu']:.1f} %"
    if "psnr_db" in summary:
      shown["PSNR"] = f"{summary['psnr_db']:.1f} dB"
    if bad:
      shown["bad records"] = str(bad)
    self._bar.set_postfix(shown, refresh=False)
    self._profiler.look(number)

  def _skipped(self, number: int, values: dict[str, float], batch: Any) -> None:
    """An update that was left out: its clips, and the batch if there is room."""
    ids = getattr(batch, "clip_ids", np.zeros(0, np.int32))
    clips = self._batches.names([int(i) for i in ids.ravel() if i >= 0])
    metrics.append(self._workdir / f"skipped_{jax.process_index()}.jsonl", {
      "step": number, "loss": str(values["loss"]),
      "grad_norm": str(values["grad_norm"]), "clips": clips,
    })  # fmt: skip
    with contextlib.suppress(OSError):  # of a full disk: the run is worth more
      self._store(number, batch)
    if distributed.is_primary():
      metrics.tell(
        f"step {number} left out: loss {values['loss']}, gradient "
        f"{values['grad_norm']}; its clips are listed in {self._workdir}/skipped_*.jsonl"
      )

  def _store(self, number: int, batch: Any) -> None:
    folder = self._workdir / "skipped"
    folder.mkdir(exist_ok=True)
    stored = {path.name.split("_")[0] for path in folder.glob("*.npz")}
    if len(stored) < _STORED_BATCHES or str(number) in stored:
      leaves = jax.tree_util.tree_leaves_with_path(batch)
      arrays = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
      path = folder / f"{number}_{jax.process_index()}.npz"
      partial = path.with_suffix(".partial")
      with partial.open("wb") as file:
        np.savez(file, **arrays)
      partial.rename(path)

  @property
  def _quarantine(self) -> pathlib.Path:
    return self._workdir / f"quarantine_{jax.process_index()}.jsonl"

  def _note_bad_records(self) -> None:
    for row in self._batches.rejected():
      # A run that is resumed meets some of them again.
      if tuple(row.values()) not in self._bad:
        self._bad[tuple(row.values())] = row["reason"]
        metrics.append(self._quarantine, row)

  def rolled_back(self, number: int, to: int) -> None:
    """The guard went back from a step to a checkpoint.

    Raises:
      ValueError: once too often.
    """
    self._rollbacks += 1
    self.rolled_to = to
    if self._rollbacks > self._config.guard.max_roll_backs:
      raise ValueError(
        f"the run went back to a checkpoint {self._rollbacks} times "
        "(guard.max_roll_backs), and never past what did it: see rollbacks.jsonl"
      )
    self._log.rewind(to)
    self._window.reset()
    self._bar.update(to - self._bar.n)
    if distributed.is_primary():
      metrics.append(self._workdir / "rollbacks.jsonl", {"from": number, "to": to})
      metrics.tell(
        f"{self._config.guard.roll_back_after} updates in a row were left out until step "
        f"{number}: back to checkpoint {to}, and on with the data behind them"
      )

  def close(self) -> None:
    self._note_bad_records()
    self._profiler.close()
    self._bar.close()
    self._log.close()

