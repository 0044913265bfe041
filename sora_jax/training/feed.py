"""Batches made ahead in a thread, each with the data position that follows it.

A checkpoint must hold the position after the last batch that was *used*, not the one
that the thread has reached, so batch and position travel together.

Used by: training/loop.py.
"""

import queue
import threading
from typing import Any

from sora_jax import api


class Feed:
  """Iterates over (batch, state) of a batch iterator; `close` ends the thread."""

  def __init__(self, iterator: api.BatchIterator, depth: int = 3):
    self._queue: queue.Queue = queue.Queue(depth)
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._fill, args=(iterator,), daemon=True)
    self._thread.start()

  def _fill(self, iterator: api.BatchIterator) -> None:
    try:
      while not self._stop.is_set():
        self._put((next(iterator), iterator.get_state()))
    except BaseException as error:
      self._put(error)

  def _put(self, item: Any) -> None:
    while not self._stop.is_set():
      try:
        return self._queue.put(item, timeout=0.2)
      except queue.Full:
        continue

  def __next__(self) -> tuple[api.PyTree, dict[str, Any]]:
    item = self._queue.get()
    if isinstance(item, BaseException):
      raise item
    return item

  def close(self) -> None:
    self._stop.set()
    self._thread.join()
