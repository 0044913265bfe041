"""What a run tells: a progress bar, metrics.jsonl and TensorBoard event files.

Used by: training/loop.py.
"""

import json
import pathlib
import sys
import time
from collections.abc import Mapping

import tensorboardX
import tqdm

from sora_jax import distributed


def progress(total: int, *, initial: int = 0, desc: str, unit: str = "it") -> tqdm.tqdm:
  """A progress bar with an ETA; sparse where the output is not a terminal."""
  seconds = 0.5 if sys.stderr.isatty() else 20.0
  return tqdm.tqdm(
    total=total, initial=initial, desc=desc, unit=unit, mininterval=seconds,
    maxinterval=max(10.0, seconds), dynamic_ncols=True,
    disable=not distributed.is_primary(),
  )  # fmt: skip


def read(workdir: str | pathlib.Path) -> list[dict[str, float]]:
  """The rows of a run's metrics.jsonl, empty where there is none."""
  path = pathlib.Path(workdir) / "metrics.jsonl"
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines() if line]


class MetricLog:
  """Writes metrics of the primary process; the others write nothing."""

  def __init__(self, workdir: str | pathlib.Path, *, first_step: int):
    self._path = pathlib.Path(workdir) / "metrics.jsonl"
    self._events = None
    if distributed.is_primary():
      # Steps after the checkpoint that we resume from are done again.
      kept = [row for row in read(workdir) if row["step"] <= first_step]
      self._path.write_text("".join(json.dumps(row) + "\n" for row in kept))
      self._events = tensorboardX.SummaryWriter(str(workdir), flush_secs=30)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    if self._events is None:
      return
    row = {"step": step, "time": round(time.time(), 3), **values}
    with self._path.open("a") as file:
      file.write(json.dumps(row) + "\n")
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def close(self) -> None:
    if self._events is not None:
      self._events.close()


class Window:
  """Means and rates over the steps since the last log line."""

  def __init__(self) -> None:
    self._open()

  def _open(self) -> None:
    self._start = time.perf_counter()
    self._rows: list[Mapping[str, float]] = []
    self._waited = 0.0

  def add(self, row: Mapping[str, float], waited: float) -> None:
    """One step's metrics and the seconds it waited for data."""
    self._rows.append(row)
    self._waited += waited

  def close(self) -> dict[str, float]:
    """The window's summary; starts the next one."""
    seconds = time.perf_counter() - self._start
    num = len(self._rows)
    summary = {k: sum(r[k] for r in self._rows) / num for k in self._rows[0]}
    summary["step_seconds"] = seconds / num
    summary["data_wait_fraction"] = self._waited / seconds
    if "useful_tokens" in summary:
      summary["useful_tokens_per_s"] = summary["useful_tokens"] * num / seconds
    self._open()
    return summary
