"""SIGTERM: every process saves the same step, and the run ends in good order.

A machine that is taken away, a scheduler's time limit and `kill` all send SIGTERM first.
With several processes JAX's coordination service tells the others and agrees on a step
that all of them will reach; one alone ends after the step at hand.

Used by: training/loop.py.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preemption:
  """Whether this run shall end now; a context for the time of a training loop."""

  def __enter__(self) -> "Preemption":
    self._asked = False
    self._before = None
    # With several processes JAX has a handler of its own; threads may not set any.
    here = threading.current_thread() is threading.main_thread()
    if jax.process_count() == 1 and here:
      self._before = signal.signal(signal.SIGTERM, self._ask)
    return self

  def __exit__(self, *error) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)

  def _ask(self, number: int, frame) -> None:
    del number, frame
    self._asked = True

  def reached(self, step: int) -> bool:
    """Whether to save `step` and end; asked once a step, by every process."""
    return self._asked or multihost_utils.reached_preemption_sync_point(step)
