"""Calls that may hang, crash or eat memory, in processes of their own.

A few worker processes take one call after another. One that is past its time is killed,
one that died is replaced, and only its own call is lost.

Used by: jobs/ingest.py.
"""

import collections
import dataclasses
import multiprocessing
import multiprocessing.connection
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_CONTEXT = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
  """Of each call."""

  seconds: float = 90.0
  memory: int = 8 << 30  # bytes of address space of a worker
  file_size: int = 4 << 30  # bytes of any file that it writes


class Lost(Exception):
  """A call without a result; says `timeout`, `crashed` or `out_of_memory`."""


@dataclasses.dataclass
class _Worker:
  process: Any
  pipe: multiprocessing.connection.Connection
  key: Any = None  # of the call that it is busy with
  deadline: float = 0.0


def run(
  function: Callable, calls: Iterable[tuple[Any, tuple]], *, workers: int, bounds: Bounds
) -> Iterator[tuple[Any, Any]]:
  """(key, function(*arguments)) of every (key, arguments), as they get done.

  Where a call was lost, its result is a `Lost`; where it raised, that exception is
  raised here. `function` is importable, arguments and results can be pickled.
  """
  waiting = collections.deque(calls)
  pool = [_start(function, bounds) for _ in range(min(workers, len(waiting)))]
  try:
    while waiting or any(worker.key is not None for worker in pool):
      for i, worker in enumerate(pool):
        if worker.key is None and waiting:
          worker.key, arguments = waiting.popleft()
          worker.deadline = time.monotonic() + bounds.seconds
          worker.pipe.send(arguments)
        elif worker.key is not None and time.monotonic() > worker.deadline:
          yield worker.key, Lost("timeout")
          _stop(worker)
          pool[i] = _start(function, bounds)
      busy = {worker.pipe: i for i, worker in enumerate(pool) if worker.key is not None}
      nearest = min((pool[i].deadline for i in busy.values()), default=0.0)
      patience = max(0.0, nearest - time.monotonic())
      for pipe in multiprocessing.connection.wait(list(busy), patience):
        worker = pool[busy[pipe]]
        key, worker.key = worker.key, None
        try:
          result, error = pipe.recv()
        except (EOFError, ConnectionResetError):
          _stop(worker)
          pool[busy[pipe]] = _start(function, bounds)
          result, error = Lost("crashed"), None
        if error is not None:
          raise error
        yield key, result
  finally:
    for worker in pool:
      _stop(worker)


def _start(function: Callable, bounds: Bounds) -> _Worker:
  ours, theirs = _CONTEXT.Pipe()
  process = _CONTEXT.Process(
    target=_serve, args=(theirs, function, bounds), daemon=True
  )
  process.start()
  theirs.close()
  return _Worker(process, ours)


def _stop(worker: _Worker) -> None:
  worker.process.kill()
  worker.process.join()
  worker.pipe.close()


def _serve(
  pipe: multiprocessing.connection.Connection, function: Callable, bounds: Bounds
) -> None:
  """Answers calls until the other side is gone."""
  resource.setrlimit(resource.RLIMIT_AS, (bounds.memory, bounds.memory))
  resource.setrlimit(resource.RLIMIT_FSIZE, (bounds.file_size, bounds.file_size))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  while True:
    try:
      arguments = pipe.recv()
    except EOFError:
      return
    try:
      answer = function(*arguments), None
    except MemoryError:
      answer = Lost("out_of_memory"), None
    except Exception as error:  # ours to raise, not theirs
      answer = None, error
    pipe.send(answer)
