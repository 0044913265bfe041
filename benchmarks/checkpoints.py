"""What checkpoints cost: the stall of saving, and the check on the way back.

  python -m benchmarks.checkpoints --out=benchmarks/results

A state of 500 MB of random float32 (parameters, average, two moments), and steps that keep
all cores busy. Saving: minutes with one checkpoint each beside minutes without, in turn;
what is lost is both the time that `save` blocks and the time that the write in the
background takes from the steps. Restoring: with all files hashed, a tenth, and none.
"""

import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
from absl import app, flags, logging

from benchmarks import measuring
from sora_jax.training import checkpoint, guard
from sora_jax.training.state import TrainState

_MEGABYTES = flags.DEFINE_integer("megabytes", 500, "Of the state.")
_SECONDS = flags.DEFINE_float("seconds", 60.0, "From one save to the next.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "With and without a save, in turn.")
_OUT = flags.DEFINE_string("out", None, "Folder for checkpoints.json.")
_LAYERS, _EVERY = 32, 10_000  # steps between saves: more than a stretch has


def make_state(megabytes: int, seed: int) -> TrainState:
  """Four trees of equal size, as parameters, average and two moments are."""
  rows = max(1, megabytes * 10**6 // (4 * 4 * _LAYERS * 1024))
  keys = iter(jax.random.split(jax.random.key(seed), 4 * _LAYERS))

  def tree():
    return {
      f"layer{i}.kernel": jax.random.normal(next(keys), (rows, 1024))
      for i in range(_LAYERS)
    }

  return TrainState(
    step=jnp.int32(0), params=tree(), ema=tree(), other={},
    opt_state={"mu": tree(), "nu": tree()}, guard=guard.initial(),
  )  # fmt: skip


@jax.jit
def work(x: jax.Array) -> jax.Array:
  """A step of a few tenths of a second on all cores."""
  return jax.lax.fori_loop(0, 6, lambda _, y: jnp.tanh(y @ y), x)


def steps_in(
  seconds: float, saver: checkpoint.Checkpointer, state: TrainState, first: int
) -> tuple[float, float]:
  """(steps per second, seconds that a save blocked), numbered from `first` on.

  As in the loop, `save` is called at every step, and saves where the number is due.
  """
  x = jnp.ones((1536, 1536)) / 1536
  count, blocked, started = 0, 0.0, time.perf_counter()
  while time.perf_counter() - started < seconds:
    work(x).block_until_ready()
    before = time.perf_counter()
    saver.save(state, {}, step=first + count)
    blocked = max(blocked, time.perf_counter() - before)
    count += 1
  return count / (time.perf_counter() - started), blocked


def saving(folder: pathlib.Path, state: TrainState) -> dict:
  """Rates with a save at the beginning of each stretch over those without, in turn."""
  saver = checkpoint.Checkpointer(folder, every=_EVERY, keep=1)
  steps_in(1.0, saver, state, 1)  # compiles
  saver.save_last(state, {}, step=_EVERY)  # the first one takes longer
  rounds = []
  for number in range(_ROUNDS.value):
    plain, _ = steps_in(_SECONDS.value, saver, state, 1)
    first = _EVERY * (2 + number)
    rounds.append((plain, *steps_in(_SECONDS.value, saver, state, first)))
  saver.close()
  lost = [1 - saved / plain for plain, saved, _ in rounds]
  return {
    "interval_s": _SECONDS.value,
    "save_blocks_s": round(statistics.median(blocked for _, _, blocked in rounds), 3),
    "steps_lost": round(statistics.median(lost), 4),
    "steps_lost_by_round": [round(part, 4) for part in lost],
  }


def restoring(folder: pathlib.Path, state: TrainState) -> dict:
  """Medians over rounds, in turn."""
  times: dict[float, list[float]] = {1.0: [], 0.1: [], 0.0: []}
  for _ in range(_ROUNDS.value + 1):
    for part, found in times.items():
      saver = checkpoint.Checkpointer(folder, verify=part)
      started = time.perf_counter()
      _, restored, _ = saver.restore_newest(state)
      jax.block_until_ready(restored.params)
      found.append(time.perf_counter() - started)
      saver.close()
  medians = {part: statistics.median(found[1:]) for part, found in times.items()}
  return {
    "restore_s": round(medians[0.0], 3),
    "with_all_hashed_s": round(medians[1.0], 3),
    "with_a_tenth_hashed_s": round(medians[0.1], 3),
    "hashing_all_adds": round(medians[1.0] / medians[0.0] - 1, 3),
    "hashing_a_tenth_adds": round(medians[0.1] / medians[0.0] - 1, 3),
  }


def main(argv) -> None:
  del argv
  logging.set_verbosity(logging.ERROR)  # Orbax tells much
  state = make_state(_MEGABYTES.value, seed=0)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  with tempfile.TemporaryDirectory() as folder:
    result = {
      "hardware": measuring.hardware(), "jax": jax.__version__,
      "state_mb": round(size / 1e6), "saving": saving(pathlib.Path(folder), state),
      "restoring": restoring(pathlib.Path(folder), state),
    }  # fmt: skip
  print(measuring.write("checkpoints", _OUT.value, result).read_text())


if __name__ == "__main__":
  flags.mark_flags_as_required(["out"])
  app.run(main)
