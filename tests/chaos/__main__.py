"""Faults at random over real training runs, which must end as if nothing had happened.

  python -m tests.chaos --minutes=10
  python -m tests.chaos --faults=100 --steps=500        one job, a hundred faults
  python -m tests.chaos --minutes=10 --processes=1,2,4  other process counts each time

Kills, SIGTERM, lost processes, full disks, damaged checkpoints and poisoned records, until
the time is over or the faults are enough. Every job ends with the bits of an undisturbed
one (on one process), with every clip given once an epoch (on any number), and no damage
unseen; or this command ends with 1 and says what was not survived. Needs root for the
full disk, and leaves that fault out without.
"""

import collections
import json
import pathlib
import random
import sys
import tempfile
import time

from absl import flags

from sora_jax import cli
from sora_jax.training import metrics
from tests.chaos import harness

_MINUTES = flags.DEFINE_float("minutes", 5.0, "Faults come for so long, at most.", 0.1)
_FAULTS = flags.DEFINE_integer("faults", None, "How many; by default, as time allows.")
_STEPS = flags.DEFINE_integer("steps", 120, "Of each job.", 8)
_PROCESSES = flags.DEFINE_list("processes", ["1"], "Of each attempt, one of these.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the faults.")
_OUT = flags.DEFINE_string("out", None, "A new folder; a temporary one if unset.")


def main() -> None:
  out = pathlib.Path(_OUT.value or tempfile.mkdtemp(prefix="chaos-")).absolute()
  processes = [int(number) for number in _PROCESSES.value]
  if not set(processes) <= {1, 2, 4}:
    raise ValueError(f"--processes={','.join(_PROCESSES.value)}: give some of 1, 2, 4")
  dataset = harness.write_dataset(out / "data")
  peaceful = harness.undisturbed(dataset, out, _STEPS.value)
  counts: collections.Counter = collections.Counter()
  started = time.monotonic()
  limit = _FAULTS.value or 10**9
  bar = metrics.progress(round(60 * _MINUTES.value), desc="chaos", unit="s")

  def more() -> bool:
    seconds = time.monotonic() - started
    bar.update(min(round(seconds), bar.total) - bar.n)
    return seconds < 60 * _MINUTES.value and counts.total() < limit

  def told(name: str, did: str) -> None:
    counts[name] += 1
    print(f"{counts.total():4d}  {name:13s} {did}", flush=True)

  jobs, attempts, wrong = 0, 0, []
  rng = random.Random(_SEED.value)
  while more() and not wrong:
    place = out / f"job_{jobs}"
    with harness.small_disk(place / "disk") as is_small:
      run = harness.Run(
        dataset, place / "disk" / "run", place / "notes", _STEPS.value, is_small
      )
      try:
        harness.disturbed(run, rng, processes=processes, more=more, told=told)
        wrong = harness.compare(run, peaceful, bits=processes == [1])
      except AssertionError as error:
        wrong = [str(error)]
    jobs, attempts = jobs + 1, attempts + run.attempts
  bar.close()
  result = {
    "jobs": jobs, "steps": _STEPS.value, "processes": processes, "attempts": attempts,
    "faults": counts.total(), **counts, "wrong": wrong,
    "minutes": round((time.monotonic() - started) / 60, 1),
  }  # fmt: skip
  (out / "chaos.json").write_text(json.dumps(result, indent=1))
  print(json.dumps(result, indent=1), f"\nlogs in {out}")
  if wrong:
    sys.exit(1)


if __name__ == "__main__":
  cli.run(main)
