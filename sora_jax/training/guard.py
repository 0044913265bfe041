"""Updates that are left out, because loss or gradient are not finite, or the loss spikes.

The last losses and gradient norms are part of the state, so a run that is resumed judges
as one that was not interrupted. Leaving out a batch helps against a bad batch; where the
parameters are what went wrong, many updates in a row are left out, and the remedy is to
go back to a checkpoint and past the data that did it (PaLM, arXiv:2204.02311, 5.1).

Used by: training/step.py, training/state.py, training/loop.py.
"""

import jax
import jax.numpy as jnp

from sora_jax.configlib import config
from sora_jax.nn.skeleton import Arrays

HISTORY = 256  # updates whose loss and gradient norm are kept
_DEVIATION = 1.4826  # of a normal distribution, over its median absolute deviation


@config
class Guard:
  """When an update is left out, and what many of them in a row lead to."""

  spike: float | None = None  # deviations above the median of the last losses; or none
  window: int = 64  # losses that the median is taken of; fewer see no spike
  roll_back_after: int = 0  # left out in a row: back to a checkpoint; 0 never
  stop_after: int = 50  # left out in a row: the run ends with an error
  max_roll_backs: int = 10  # of a workdir; then the run ends with an error too

  def check(self) -> None:
    """Raises ValueError where the fields do not fit each other."""
    if not 4 <= self.window <= HISTORY:
      raise ValueError(f"guard.window={self.window} must be from 4 to {HISTORY}")
    if self.spike is not None and self.spike <= 0:
      raise ValueError(f"guard.spike={self.spike} must be above 0; None sees no spikes")
    if self.stop_after < 1 or self.roll_back_after >= self.stop_after:
      raise ValueError(
        f"guard.stop_after={self.stop_after} must be above guard.roll_back_after="
        f"{self.roll_back_after}"
      )

  def rolls_back(self, left_out: int) -> bool:
    """Whether to go back to a checkpoint after so many updates left out in a row.

    Raises:
      ValueError: they are so many that the run shall end.
    """
    if left_out >= self.stop_after:
      raise ValueError(
        f"{left_out} updates in a row were left out (guard.stop_after): their clips are in "
        "WORKDIR/skipped_*.jsonl, and --debug_nans says where the numbers break"
      )
    return 0 < self.roll_back_after <= left_out

  def spikes(self, state: Arrays, loss: jax.Array) -> jax.Array:
    """Whether a loss is far above the last ones; bool, scalar."""
    if self.spike is None:
      return jnp.zeros((), bool)
    recent = state["history"][-self.window :, 0]
    median = jnp.median(recent)
    deviation = _DEVIATION * jnp.median(jnp.abs(recent - median))
    # NaN before the window is full, and then nothing is above it.
    return loss > median + self.spike * deviation


def initial() -> Arrays:
  """What the guard keeps from step to step.

    history   [HISTORY, 2] float32: loss and gradient norm of the last updates, the
              newest last; NaN where there was none yet
    left_out  int32: updates in a row
  """
  return {
    "history": jnp.full((HISTORY, 2), jnp.nan, jnp.float32),
    "left_out": jnp.zeros((), jnp.int32),
  }


def after(
  state: Arrays, loss: jax.Array, grad_norm: jax.Array, good: jax.Array
) -> Arrays:
  """What the guard keeps after a step whose update was `good`, or was left out."""
  newest = jnp.stack([loss, grad_norm]).astype(jnp.float32)
  longer = jnp.concatenate([state["history"][1:], newest[None]])
  return {
    "history": jnp.where(good, longer, state["history"]),
    "left_out": jnp.where(good, 0, state["left_out"] + 1),
  }
