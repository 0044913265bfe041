"""What can go wrong, done on purpose. Each fault says what it did, None if it cannot be.

`RUNNING` happen to a run under way, `DOWN` to its files while it is down; `rng` chooses
what has a choice.

Used by: tests/chaos/harness.py.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

from sora_jax.weights import folders

GRACE = 30.0  # seconds that SIGTERM may take


def sigkill(run, rng: random.Random) -> str:
  """The run and all its children."""
  os.killpg(run.process.pid, signal.SIGKILL)
  run.process.wait()
  return f"killed with checkpoints {run.steps()}"


def sigterm(run, rng: random.Random) -> str | None:
  """As of a machine that is taken away: it must save, and end well and soon.

  Not while the first step is compiled: then it ends after that.
  """
  if run.steps_of_attempt() < 3:
    return None
  since = time.monotonic()
  run.process.send_signal(signal.SIGTERM)
  try:
    code = run.process.wait(GRACE)
  except subprocess.TimeoutExpired:
    os.killpg(run.process.pid, signal.SIGKILL)
    run.process.wait()
    raise AssertionError(f"SIGTERM: still there after {GRACE} s") from None
  assert code == 0, f"SIGTERM: ended with {code}: {run.output()[-2000:]}"
  return f"ended with {code} in {time.monotonic() - since:.1f} s"


def lose_process(run, rng: random.Random) -> str | None:
  """kill -9 of one of several: the launcher must end the others, and say which it was."""
  children = run.children()
  if len(children) < 2:
    return None
  victim = rng.choice(children)
  os.kill(victim, signal.SIGKILL)
  since = time.monotonic()
  try:
    code = run.process.wait(60.0)
  except subprocess.TimeoutExpired:
    raise AssertionError("a lost process: the others are there after 60 s") from None
  assert code not in (0, 2), f"a lost process: ended with {code}"
  assert "ended with -9; stopping the others" in run.output(), "the lost one is not named"
  return f"one of {len(children)} lost, all out in {time.monotonic() - since:.1f} s"


def fill_disk(run, rng: random.Random) -> str | None:
  """No room for some checkpoints: the run must go on, and say so."""
  if not run.on_small_disk or run.newest() is None:
    return None
  filler = run.workdir.parent / "filler"
  with filler.open("wb", buffering=0) as file:
    try:
      while True:
        file.write(bytes(1 << 16))
    except OSError:
      pass
  try:
    lost = _wait_for(lambda: "could not be saved" in run.output(), 30.0)
    assert run.process.poll() is None, "a full disk ended the run:\n" + run.output()[-2000:]
    assert lost, "a full disk: nothing was said\n" + run.output()[-2000:]
  finally:
    filler.unlink()
  before = run.newest() or 0
  again = _wait_for(
    lambda: any(s > before and folders.is_sealed(run.folder(s)) for s in run.steps()), 30.0
  )
  assert again or run.process.poll() is not None, "there is room, and nothing is saved"
  return "a checkpoint was lost, and there is room and a newer one again"


RUNNING = {"sigkill": sigkill, "sigterm": sigterm, "lose_process": lose_process,
           "fill_disk": fill_disk}  # fmt: skip


def _newest_file(run, rng: random.Random) -> pathlib.Path | None:
  """A file of the newest checkpoint, by its share of the bytes; another must be left."""
  sealed = [step for step in run.steps() if folders.is_sealed(run.folder(step))]
  if len(sealed) < 2 or sealed[-1] != run.newest():
    return None
  run.expected = 1
  files = [path for path in run.folder(sealed[-1]).rglob("*") if path.is_file()]
  sizes = [path.stat().st_size for path in files]
  return rng.choices(files, sizes)[0]


def flip(run, rng: random.Random) -> str | None:
  path = _newest_file(run, rng)
  if path is None:
    return None
  content = bytearray(path.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)
  return f"a bit of {run.inside(path)}"


def truncate(run, rng: random.Random) -> str | None:
  path = _newest_file(run, rng)
  if path is None:
    return None
  path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
  return f"the end of {run.inside(path)}"


def remove(run, rng: random.Random) -> str | None:
  """A file, or the whole folder of an item."""
  path = _newest_file(run, rng)
  if path is None:
    return None
  item = run.folder(run.newest()) / run.inside(path).parts[1]
  if item.is_dir() and rng.random() < 0.3:
    shutil.rmtree(item)
    return f"all of {run.inside(item)}"
  path.unlink()
  return f"{run.inside(path)}"


def poison(run, rng: random.Random) -> str:
  """A record that cannot be read: the run must stop and name it, before it is used."""
  shard = rng.choice(sorted(run.dataset.glob("*.array_record*")))
  good = shard.read_bytes()
  bad = bytearray(good)
  # Most of a small shard is padding.
  bad[rng.choice([i for i, byte in enumerate(bad) if byte])] ^= 1 << rng.randrange(8)
  shard.write_bytes(bad)
  try:
    run.start()
    code = run.process.wait(90.0)
  except subprocess.TimeoutExpired:
    sigkill(run, rng)
    return "poisoned bytes that no record needs"  # then the results must still agree
  finally:
    shard.write_bytes(good)
  if run.is_finished():
    return "poisoned bytes that no record needed any more"
  assert code == 2 and "max_bad_records" in run.output(), run.output()[-2000:]
  return "the run stopped, and named the record"


DOWN = {"poison": poison, "flip": flip, "truncate": truncate, "remove": remove}


def _wait_for(condition, seconds: float) -> bool:
  until = time.monotonic() + seconds
  while time.monotonic() < until:
    with contextlib.suppress(FileNotFoundError):  # of a step that is deleted just now
      if condition():
        return True
    time.sleep(0.1)
  return False
