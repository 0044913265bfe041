"""Malformed inputs of every kind, made from good ones by a seeded generator, and tried.

  python -m tests.security.malformed OUT.json

Writes what came of each: [kind, what was done, outcome, words]. The outcome is `error` (a
ValueError of ours), `skip` (counted in a report), `fine` (what is left is still good), or
what should not be: another exception, with its traceback.

Used by: test_malformed.py, which runs it in a process of its own.
Next: malformed_inputs.py.
"""

import json
import os
import pathlib
import random
import re
import signal
import sys
import tempfile
import traceback

os.environ["JAX_PLATFORMS"] = "cpu"

from tests.security import malformed_inputs as inputs

ROOT = pathlib.Path(__file__).parents[2]


def outcome(case: inputs.Case) -> list:
  """One row of the results."""
  kind, way, call = case
  signal.setitimer(signal.ITIMER_REAL, inputs.SECONDS)
  try:
    found, _, words = call().partition(": ")
  except ValueError as error:
    found, words = "error", str(error)
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    ours = type(error) is ValueError and pathlib.Path(place).is_relative_to(ROOT)
    # The first line says what is wrong; others may list where.
    if not ours or not 5 < len(words.splitlines()[0]) < 600 or len(words) > 5000:
      found = "unclear: " + "".join(traceback.format_exception(error))[-1500:]
  except BaseException as error:
    found, words = "".join(traceback.format_exception(error))[-2500:], str(error)
  signal.setitimer(signal.ITIMER_REAL, 0.0)
  return [kind, way, found, words]


def late(*_) -> None:
  raise TimeoutError(f"took more than {inputs.SECONDS} seconds")


def main(out: str) -> None:
  signal.signal(signal.SIGALRM, late)
  rows, rng = [], random.Random(0)
  with tempfile.TemporaryDirectory() as root:

    def folder(name: str) -> pathlib.Path:
      path = pathlib.Path(root, name, "in")
      path.mkdir(parents=True)
      return path

    rows += inputs.try_media(folder("media"), rng, 75)
    for cases in (
      inputs.manifests(folder("manifests"), rng, 45),
      inputs.weights(folder("weights"), rng, 48),
      inputs.configurations(folder("configs"), rng, 60),
      inputs.overrides(rng, 24),
      inputs.requests(folder("requests"), rng, 60),
      inputs.datasets(folder("datasets"), rng, 36),
    ):
      rows += map(outcome, cases)
  status = pathlib.Path("/proc/self/status").read_text()
  memory = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10
  pathlib.Path(out).write_text(json.dumps({"rows": rows, "memory": memory}))


if __name__ == "__main__":
  main(sys.argv[1])
