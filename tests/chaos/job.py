"""The training run that faults happen to: small, on latents that were packed for real.

Beside what every run writes, each process keeps a ledger of the clips of every step, and
the state at the end is in --ledger too.

Used by: tests/chaos/harness.py.
"""

import json
import pathlib
import time

import jax
import numpy as np
from absl import flags

from sora_jax import cli, distributed
from sora_jax.training import checkpoint, loop
from tests.chaos import harness

_DATASET = flags.DEFINE_string("dataset", None, "Versioned folder.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.")
_LEDGER = flags.DEFINE_string("ledger", None, "Folder.")
_STEPS = flags.DEFINE_integer("steps", 100, "Of the run.")
_SECONDS = flags.DEFINE_float("seconds", 0.0, "That every step is slowed by.")


def main() -> None:
  distributed.initialize()
  keep_ledger(pathlib.Path(_LEDGER.value))
  state = loop.train(harness.config(_DATASET.value, _STEPS.value), _WORKDIR.value)
  if int(state.step) == _STEPS.value:
    leaves = [distributed.to_everywhere(leaf) for leaf in jax.tree.leaves(state)]
    if distributed.is_primary():
      partial = pathlib.Path(_LEDGER.value) / "partial.npz"
      np.savez(partial, *leaves)
      partial.rename(partial.with_name("final.npz"))


def keep_ledger(folder: pathlib.Path) -> None:
  """Notes what every step is given, from the step on that the run is resumed at."""
  folder.mkdir(parents=True, exist_ok=True)
  file = (folder / f"steps_{jax.process_index()}_{time.time_ns()}.jsonl").open("w")
  restore, feed_devices = checkpoint.Checkpointer.restore_newest, distributed.to_global
  at = {}

  def restored(self, like):
    at["step"], state, data = restore(self, like)
    return at["step"], state, data

  def noted(mesh, batch):
    first = distributed.local_rows(mesh, len(batch.clip_ids) * jax.process_count()).start
    for row, ids in enumerate(batch.clip_ids.tolist(), first):
      file.write(json.dumps([at["step"], row, ids]) + "\n")
    file.flush()
    at["step"] += 1
    time.sleep(_SECONDS.value)
    return feed_devices(mesh, batch)

  checkpoint.Checkpointer.restore_newest, distributed.to_global = restored, noted


if __name__ == "__main__":
  flags.mark_flags_as_required(["dataset", "workdir", "ledger"])
  cli.run(main)
