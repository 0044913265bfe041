"""Calls that may hang, crash or eat memory, in processes of their own.

A few worker processes take one call after another. One that is past its time is killed,
one that died is replaced, and only its own call is lost.

A worker reads files of strangers, so what it says is data: calls and answers are JSON, a
line each, and an answer that is too long or no JSON is a call that was lost. Of the
environment it gets what programs need to run, and so nobody's keys.

  python -P -m data_pipelines.isolated MODULE:FUNCTION BOUNDS   a worker; started by `run`

Used by: jobs/ingest.py.
"""

import collections
import contextlib
import errno
import importlib
import json
import math
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sora_jax import configlib

# An answer is one of these with its value.
_RAISED = {"ValueError": ValueError, "OSError": OSError, "RuntimeError": RuntimeError}
_ANSWERS = {"result": object, "lost": str, **dict.fromkeys(_RAISED, str)}
_READY = b"ready"  # the line before the first answer
_START = 120.0  # seconds in which a worker is ready
_ENVIRONMENT = re.compile(
  "PATH|HOME|LANG|LC_.*|LD_LIBRARY_PATH|PYTHON.*|.*_NUM_THREADS|TMPDIR|VIRTUAL_ENV"
)


@configlib.config
class Bounds:
  """Of each call."""

  seconds: float = 90.0
  memory: int = 8 << 30  # bytes of address space of a worker
  file_size: int = 4 << 30  # bytes of any file that it writes
  answer: int = 8 << 20  # bytes of what it returns, as JSON


class Lost(Exception):
  """A call without a result.

  Says `timeout`, `crashed`, `out_of_memory`, `file_too_large` or `bad_answer`.
  """


def run(
  function: Callable, calls: Iterable[tuple[Any, tuple]], *, workers: int, bounds: Bounds
) -> Iterator[tuple[Any, Any]]:
  """(key, function(*arguments)) of every (key, arguments), as they get done.

  Where a call was lost, its result is a `Lost`; where it raised a ValueError or an
  OSError, that is raised here, and anything else as a RuntimeError. `function` is
  importable; arguments are what configs hold (dataclasses of ours among them), and
  results are JSON.

  Raises:
    ValueError: a worker cannot start, which is not the fault of a call.
  """
  waiting = collections.deque(calls)
  pool: list[_Worker] = []
  try:
    while waiting or any(worker.is_busy for worker in pool):
      busy = sum(worker.is_busy for worker in pool)
      while len(pool) < min(workers, busy + len(waiting)):
        pool.append(_Worker(function, bounds))
      for worker in pool:
        if waiting and not worker.is_busy:
          worker.begin(*waiting.popleft())
      at_work = [worker for worker in pool if worker.is_busy]
      _wait(at_work)
      for worker in at_work:
        for kind, value in worker.answer().items():
          if kind in _RAISED:
            raise _RAISED[kind](value)
          if kind == "lost":
            worker.stop()
            pool.remove(worker)
          yield worker.key, Lost(value) if kind == "lost" else value
  finally:
    for worker in pool:
      worker.stop()


def _wait(workers: list["_Worker"]) -> None:
  """Until one of them says something, or is out of time."""
  poll = select.poll()
  for worker in workers:
    poll.register(worker, select.POLLIN)
  left = min(worker.deadline for worker in workers) - time.monotonic()
  poll.poll(max(0, math.ceil(1000 * left)))


class _Worker:
  """A process, and the call that it is busy with."""

  def __init__(self, function: Callable, bounds: Bounds):
    name = f"{function.__module__}:{function.__qualname__}"
    path = os.pathsep.join(place or os.getcwd() for place in sys.path)
    self._process = subprocess.Popen(
      [sys.executable, "-P", "-m", __name__, name, configlib.to_json(bounds)],
      env=_environment() | {"PYTHONPATH": path},
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    os.set_blocking(self.fileno(), False)  # half an answer is not waited for
    self._bounds = bounds
    self._said = bytearray()
    self.key: Any = None
    self.is_busy = self._is_ready = False
    self.deadline = math.inf

  def fileno(self) -> int:
    return self._process.stdout.fileno()

  def begin(self, key: Any, arguments: tuple) -> None:
    self.key, self.is_busy = key, True
    self._give(self._bounds.seconds if self._is_ready else _START)
    # Line breaks in JSON are between its parts only.
    line = configlib.to_json(arguments).replace("\n", "") + "\n"
    # One that has died says so by saying nothing.
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(line.encode())

  def _give(self, seconds: float) -> None:
    self.deadline = time.monotonic() + seconds

  def answer(self) -> dict[str, Any]:
    """What came of the call, as one of `_ANSWERS`; empty while it goes on."""
    answer = self._hear()
    if not answer and time.monotonic() > self.deadline:
      answer = {"lost": "timeout"}
    if answer and not self._is_ready:
      raise ValueError(
        f"a worker process cannot start ({answer['lost']}): see what it said above. Where "
        "memory is bounded (ulimit -v, a job's limit), it may need more"
      )
    if answer:
      self.is_busy, self.deadline = False, math.inf
    return answer

  def _hear(self) -> dict[str, Any]:
    try:
      piece = os.read(self.fileno(), 1 << 20)
    except BlockingIOError:
      return {}
    if not piece:
      return {"lost": "crashed"}
    self._said += piece
    if not self._is_ready:
      self._await_ready()
    if len(self._said) > self._bounds.answer:
      return {"lost": "bad_answer"}
    if not self._said.endswith(b"\n") or not self._is_ready:
      return {}
    said, self._said = self._said, bytearray()
    try:
      ((kind, value),) = json.loads(said).items()
      if isinstance(value, _ANSWERS[kind]):
        return {kind: value}
    except (ValueError, RecursionError, AttributeError, KeyError):
      pass
    return {"lost": "bad_answer"}

  def _await_ready(self) -> None:
    """Only then does the time of a call begin; what else is printed before is no matter."""
    while not self._is_ready and b"\n" in self._said:
      line, _, self._said = self._said.partition(b"\n")
      if line == _READY:
        self._is_ready = True
        self._give(self._bounds.seconds)

  def stop(self) -> None:
    self._process.kill()
    self._process.wait()
    self._process.stdin.close()
    self._process.stdout.close()


def _environment() -> dict[str, str]:
  return {k: v for k, v in os.environ.items() if _ENVIRONMENT.fullmatch(k)}


def _limit(kind: int, most: int) -> None:
  """What this process was given already may be less, and cannot be raised."""
  hard = resource.getrlimit(kind)[1]
  most = most if hard == resource.RLIM_INFINITY else min(most, hard)
  resource.setrlimit(kind, (most, most))


def _main(name: str, bounds: str) -> None:
  """Answers calls until the other side is gone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side hears it too, and stops us
  calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
  # Whatever else reads or prints here has no part in the conversation.
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.dup2(2, 1)
  module, _, function = name.partition(":")
  function = getattr(importlib.import_module(module), function)
  bounds = configlib.from_json(bounds)
  _limit(resource.RLIMIT_AS, bounds.memory)
  _limit(resource.RLIMIT_FSIZE, bounds.file_size)
  _limit(resource.RLIMIT_CORE, 0)
  answers.write(_READY + b"\n")
  answers.flush()
  for line in calls:
    # Ends this process where the one that would stop it was killed itself.
    signal.setitimer(signal.ITIMER_REAL, bounds.seconds + 10.0)
    try:
      answers.write(_answer(function, configlib.from_json(line)))
      answers.flush()
    except BrokenPipeError:
      return
    signal.setitimer(signal.ITIMER_REAL, 0.0)


def _answer(function: Callable, arguments: tuple) -> bytes:
  try:
    return json.dumps({"result": function(*arguments)}).encode() + b"\n"
  except MemoryError:
    answer = {"lost": "out_of_memory"}
  except OSError as error:
    lost = {errno.EFBIG: "file_too_large", errno.ENOMEM: "out_of_memory"}
    known = error.errno in lost
    answer = {"lost": lost[error.errno]} if known else {"OSError": str(error)}
  except ValueError as error:
    answer = {"ValueError": str(error)}
  except Exception as error:  # the other side's to raise, not ours
    answer = {"RuntimeError": f"{type(error).__name__}: {error}"}
  return json.dumps(answer).encode() + b"\n"


if __name__ == "__main__":
  _main(*sys.argv[1:])
