"""What measurements share: calls timed in turn, children, hardware, files, plots.

Used by: every script here.
"""

import contextlib
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import jax
import matplotlib.figure
from matplotlib.axes import Axes

COLORS = ("#2a78d6", "#e07b39", "#3d9a6c", "#9aa3ad")


def hardware(accelerator: str = "") -> str:
  """What the measurement runs on: the accelerator's name, or the CPU."""
  return accelerator or f"{os.cpu_count()} x {platform.machine()} CPU cores"


def seconds(call: Callable[..., Any], *args: Any) -> float:
  """Of one call, until its arrays are there."""
  started = time.perf_counter()
  jax.block_until_ready(call(*args))
  return time.perf_counter() - started


def compare(
  calls: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> dict[str, float]:
  """Medians of two calls, in turn, and the median over rounds of second over first.

  The first `warm_up` calls of each, which compile, do not count.
  """
  for call in calls.values():
    for _ in range(warm_up):
      seconds(call)
  times = [[seconds(call) for call in calls.values()] for _ in range(rounds)]
  medians = {
    f"{name}_s": round(statistics.median(own), 4) for name, own in zip(calls, zip(*times))
  }
  ratio = statistics.median(second / first for first, second in times)
  return medians | {"ratio": round(ratio, 3)}


def child(target: Callable[..., None], *args: Any, **environment: str) -> Connection:
  """A new process that runs target(connection, *args); returns the other end.

  It has these variables in its environment before it imports anything, and should end
  when the connection is closed, as `requests` does.
  """
  spawn = multiprocessing.get_context("spawn")
  mine, its = spawn.Pipe()
  before = os.environ.copy()
  os.environ.update(environment)  # what is spawned inherits it
  spawn.Process(target=target, args=(its, *args), daemon=True).start()
  os.environ.clear()
  os.environ.update(before)
  its.close()  # or nobody here would notice that it ended
  return mine


def requests(parent: Connection) -> Iterator[Any]:
  """What comes from the parent of a `child`, until it closes the connection."""
  with contextlib.suppress(EOFError):
    while True:
      yield parent.recv()


def write(name: str, folder: str, result: dict[str, Any]) -> pathlib.Path:
  """FOLDER/NAME.json."""
  path = pathlib.Path(folder) / f"{name}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(result, indent=1) + "\n")
  return path


@contextlib.contextmanager
def plot(
  name: str, folder: str, size: tuple[float, float], panels: int = 1
) -> Iterator[list[Axes]]:
  """Panels side by side, to draw on; FOLDER/NAME.png when the block ends."""
  figure = matplotlib.figure.Figure(figsize=size, dpi=150, layout="constrained")
  axes = [figure.add_subplot(1, panels, 1 + i) for i in range(panels)]
  for one in axes:
    one.spines[["top", "right"]].set_visible(False)
  yield axes
  figure.savefig(pathlib.Path(folder) / f"{name}.png")
