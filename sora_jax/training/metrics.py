"""What a run tells: a progress bar, metrics.jsonl, TensorBoard, Weights & Biases, traces.

Used by: training/loop.py.
"""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import tqdm
from tensorboardX import event_file_writer, summary
from tensorboardX.proto import event_pb2

from sora_jax import chips, distributed
from sora_jax.weights import folders


def progress(total: int, *, initial: int = 0, desc: str, unit: str = "it") -> tqdm.tqdm:
  """A progress bar with an ETA; sparse where the output is not a terminal."""
  seconds = 0.5 if sys.stderr.isatty() else 20.0
  return tqdm.tqdm(
    total=total, initial=initial, desc=desc, unit=unit, mininterval=seconds,
    maxinterval=max(10.0, seconds), dynamic_ncols=True,
    disable=not distributed.is_primary(), file=_Console(),
  )  # fmt: skip


def read(workdir: str | pathlib.Path) -> list[dict[str, float]]:
  """The rows of a run's metrics.jsonl, empty where there is none."""
  return read_rows(pathlib.Path(workdir) / "metrics.jsonl")


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a file of JSON lines, without the half ones of runs that were killed."""
  rows = []
  for line in path.read_text().splitlines() if path.exists() else ():
    with contextlib.suppress(json.JSONDecodeError):
      rows.append(json.loads(line))
  return rows


def append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
  """Adds a row to a file of JSON lines; where the disk is full, it is only told of."""
  try:
    with path.open("a+b") as file:
      end = file.seek(0, os.SEEK_END)
      file.seek(max(0, end - 1))
      torn = file.read() not in (b"", b"\n")  # by a kill
      file.write(("\n" * torn + json.dumps(row) + "\n").encode())
  except OSError as error:
    tell(f"WARNING: a row of {path} is lost: {error.strerror}")


def tell(text: str) -> None:
  """On stderr; where that is a file on a full disk, not at all."""
  with contextlib.suppress(OSError):
    print(text, file=sys.stderr, flush=True)


class _Console:
  """stderr for a progress bar, which a full disk does not end."""

  def __getattr__(self, name: str):
    return getattr(sys.stderr, name)

  def write(self, text: str) -> None:
    with contextlib.suppress(OSError):
      sys.stderr.write(text)

  def flush(self) -> None:
    with contextlib.suppress(OSError):
      sys.stderr.flush()


class MetricLog:
  """Writes metrics of the primary process; the others write nothing."""

  def __init__(
    self, workdir: str | pathlib.Path, *, first_step: int, wandb_project: str = ""
  ):
    """Continues the log of a run behind `first_step`.

    Raises:
      ValueError: a project of Weights & Biases is named and wandb is not installed.
    """
    self._wandb = None
    workdir = pathlib.Path(workdir)
    self._path = workdir / "metrics.jsonl"
    self._events = None
    if distributed.is_primary():
      self.rewind(first_step)
      # Written here and now: the writer's own thread would end at a full disk, and then
      # its queue would block.
      with contextlib.suppress(OSError):
        self._events = event_file_writer.EventsWriter(str(workdir / "events"))
      if wandb_project:
        self._wandb = _start_wandb(wandb_project, workdir)

  def rewind(self, step: int) -> None:
    """Forgets the steps after a checkpoint, which are done again."""
    if distributed.is_primary():
      kept = [row for row in read(self._path.parent) if row["step"] <= step]
      try:
        folders.write_whole(self._path, "".join(json.dumps(row) + "\n" for row in kept))
      except OSError as error:
        tell(f"WARNING: {self._path} keeps steps that are done again: {error.strerror}")

  def write(self, step: int, values: Mapping[str, float]) -> None:
    if not distributed.is_primary():
      return
    append(self._path, {"step": step, "time": round(time.time(), 3), **values})
    if self._events is not None:
      with contextlib.suppress(OSError):
        self._write_events(step, values)
    if self._wandb is not None:
      self._wandb.log(dict(values), step=step)

  def _write_events(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      told = summary.scalar(name, value)
      self._events.write_event(
        event_pb2.Event(wall_time=time.time(), step=step, summary=told)
      )
    self._events.flush()

  def close(self) -> None:
    if self._events is not None:
      with contextlib.suppress(OSError):
        self._events.close()
    if self._wandb is not None:
      self._wandb.finish()


def _start_wandb(project: str, workdir: pathlib.Path):
  """The run of this workdir, continued where there is one."""
  try:
    import wandb
  except ImportError as error:
    raise ValueError(
      "config.wandb_project is set, but wandb is not installed: pip install wandb, or "
      "leave it empty"
    ) from error
  name = "-".join(workdir.absolute().parts[-2:])
  config = json.loads((workdir / "config.json").read_text())
  return wandb.init(
    project=project, name=name, id=name, resume="allow", config=config, dir=str(workdir)
  )


class Profiler:
  """Traces some steps when asked for: `touch WORKDIR/profile` while the run goes on.

  The trace is for TensorBoard or Perfetto and lies in WORKDIR/profiles. The first
  process traces; the request is looked for once per log line.
  """

  STEPS = 5

  def __init__(self, workdir: str | pathlib.Path):
    self._request = pathlib.Path(workdir) / "profile"
    self._folder = pathlib.Path(workdir) / "profiles"
    self._left = 0

  def look(self, step: int) -> None:
    """Starts a trace where one is asked for."""
    if self._left or not distributed.is_primary() or not self._request.exists():
      return
    self._request.unlink()
    jax.profiler.start_trace(str(self._folder / f"step_{step}"))
    self._left = self.STEPS

  def step(self) -> None:
    """Counts a step that has ended; after the last one the trace is written."""
    if self._left:
      self._left -= 1
      if not self._left:
        jax.profiler.stop_trace()

  def close(self) -> None:
    """Ends a trace that is under way."""
    if self._left:
      self._left = 0
      jax.profiler.stop_trace()


class Window:
  """Means and rates over the steps since the last log line.

    mfu                 FLOPs of the mathematics per second, over the devices' peak
    goodput             share of all time since the start that went into steps
    data_wait_fraction  share of the window that was spent waiting for data
    hbm_peak_gib        of this process's first device, as the device tells
  """

  def __init__(self) -> None:
    self._born = time.perf_counter()
    self._productive = 0.0
    self._first = True
    chip = chips.of_kind(jax.devices()[0].device_kind)
    self._peak_flops = chip and chip.flops * jax.device_count()
    self.reset()

  def reset(self) -> None:
    """Forgets the steps since the last line: they are told of, or were undone."""
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
    # What a step that was left out tells is no mean of anything.
    kept = [row for row in self._rows if not row.get("skipped")] or self._rows
    summary = {k: sum(r[k] for r in kept) / len(kept) for k in kept[0]}
    summary["skipped"] = sum(r.get("skipped", 0.0) for r in self._rows)
    if "grad_norm" in summary:
      summary["grad_norm_max"] = max(row["grad_norm"] for row in kept)
    summary["step_seconds"] = seconds / num
    summary["data_wait_fraction"] = self._waited / seconds
    # The first window holds the compilation.
    self._productive += 0.0 if self._first else seconds - self._waited
    self._first = False
    summary["goodput"] = self._productive / (time.perf_counter() - self._born)
    if "useful_tokens" in summary:
      summary["useful_tokens_per_s"] = summary["useful_tokens"] * num / seconds
    if "model_flops" in summary:
      rate = summary.pop("model_flops") * num / seconds
      summary["model_tflops_per_s"] = rate / 1e12
      if self._peak_flops:
        summary["mfu"] = rate / self._peak_flops
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
      summary["hbm_peak_gib"] = memory["peak_bytes_in_use"] / 2**30
    self.reset()
    return summary
