"""A training run under faults, beside one that is left in peace.

Used by: tests/chaos/__main__.py, tests/chaos/test_chaos.py.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from orbax.checkpoint import utils as orbax_utils

from data_pipelines import ledger
from sora_jax.training.config import TrainConfig
from tests import conftest
from tests.chaos import faults

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEVICES = 4  # in all, however many processes share them
CLIPS = 40
_SLOWNESS = 0.05  # seconds a step, so that faults come between the steps
_PATIENCE = 240.0  # seconds for the first step, or a few more


def config(dataset: str, steps: int) -> TrainConfig:
  """That of the tests, with frequent checkpoints; any bad record stops it."""
  made = conftest.tiny_config(
    dataset, num_steps=steps, checkpoint_every=4, keep_checkpoints=4, log_every=5
  )
  made.data.max_bad_records = 0
  return made


@dataclasses.dataclass
class Run:
  """One job, started again and again."""

  dataset: pathlib.Path
  workdir: pathlib.Path
  notes: pathlib.Path  # the ledger, the logs; never on the small disk
  steps_wanted: int
  on_small_disk: bool = False
  process: subprocess.Popen | None = None
  attempts: int = 0
  noted_before: int = 0
  # How many folders must be in `damaged` when the run goes on; and what is there by now.
  expected: int = 0
  seen_damaged: set[str] = dataclasses.field(default_factory=set)

  def start(self, processes: int = 1, seconds: float = 0.0) -> None:
    self.attempts += 1
    self.noted_before = len(self.noted())
    self.notes.mkdir(parents=True, exist_ok=True)
    command = [
      sys.executable, "-m", "tests.chaos.job", f"--dataset={self.dataset}",
      f"--workdir={self.workdir}", f"--ledger={self.notes}",
      f"--steps={self.steps_wanted}", f"--seconds={seconds}",
    ]  # fmt: skip
    if processes > 1:
      command = [
        sys.executable, "-m", "launch.local", f"--num_processes={processes}",
        f"--devices={DEVICES // processes}", "--", *command,
      ]  # fmt: skip
    flags = f"--xla_force_host_platform_device_count={DEVICES} {os.environ['XLA_QUICKLY']}"
    with self._log().open("w") as log:
      self.process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=log, stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags},
      )  # fmt: skip

  def _log(self) -> pathlib.Path:
    return self.notes / f"attempt_{self.attempts}.log"

  def output(self) -> str:
    return self._log().read_text(errors="replace")

  def children(self) -> list[int]:
    path = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]

  def noted(self) -> list[tuple[int, int, list[int]]]:
    """The ledger: (step, row, clip ids), whatever was cut short by a kill left out."""
    entries = []
    for path in sorted(self.notes.glob("steps_*.jsonl")):
      for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
          entries.append(tuple(json.loads(line)))
    return entries

  def steps_of_attempt(self) -> int:
    """That were begun by now; the first one is compiled meanwhile."""
    return (len(self.noted()) - self.noted_before) // config("", 1).data.rows

  def is_finished(self) -> bool:
    return (self.notes / "final.npz").exists()

  def folder(self, step: int) -> pathlib.Path:
    return self.workdir / "checkpoints" / str(step)

  def steps(self) -> list[int]:
    folder = self.workdir / "checkpoints"
    return sorted(orbax_utils.checkpoint_steps(folder)) if folder.is_dir() else []

  def newest(self) -> int | None:
    return max(self.steps(), default=None)

  def inside(self, path: pathlib.Path) -> pathlib.Path:
    return path.relative_to(self.workdir / "checkpoints")

  def look_at_damaged(self) -> int:
    """How many were set aside since the last look."""
    found = {path.name for path in (self.workdir / "damaged").glob("*")}
    new = found - self.seen_damaged
    self.seen_damaged |= found
    return len(new)

  def final(self) -> list[np.ndarray]:
    with np.load(self.notes / "final.npz") as file:
      return [file[name] for name in file.files]


def undisturbed(dataset: pathlib.Path, out: pathlib.Path, steps: int) -> Run:
  """The run that the others must equal, on one process."""
  run = Run(dataset, out / "undisturbed", out / "undisturbed_notes", steps)
  run.start()
  assert run.process.wait() == 0, run.output()[-3000:]
  return run


def disturbed(
  run: Run, rng: random.Random, *, processes: list[int], more: Callable[[], bool],
  told: Callable[[str, str], None], within: int = 24,
) -> None:  # fmt: skip
  """One job to its end; faults come while `more` says so.

  Args:
    run: not started yet.
    rng: chooses the faults, their moments and places.
    processes: one of these is the number of the next attempt.
    more: asked before every fault.
    told: called with every fault and what came of it.
    within: so many steps of an attempt its fault comes.

  Raises:
    AssertionError: something was not survived; says what.
  """
  while True:
    disturbing = more()
    run.start(rng.choice(processes), _SLOWNESS if disturbing else 0.0)
    if disturbing and rng.random() < 0.15:
      _sleep(run, rng.uniform(0.0, 8.0))  # before the first step, mostly
    else:
      _until_steps(run, 1)
      found = run.look_at_damaged()
      assert found >= run.expected, "the damage of a checkpoint was not found"
      run.expected = 0
      if disturbing:
        _until_steps(run, rng.randrange(within))
        _sleep(run, rng.uniform(0.0, 0.3))
      else:
        run.process.wait()
    struck = False
    for name in rng.sample(sorted(faults.RUNNING), len(faults.RUNNING)):
      did = disturbing and run.process.poll() is None and faults.RUNNING[name](run, rng)
      if did:
        struck = True
        told(name, did)
        break
    if run.process.poll() is None:  # after a full disk
      told("sigkill", faults.sigkill(run, rng))
    with contextlib.suppress(ProcessLookupError):
      os.killpg(run.process.pid, signal.SIGKILL)  # whom a launcher may have left
    if run.is_finished():
      return
    code = run.process.returncode
    assert struck, f"ended by itself with {code}: {run.output()[-3000:]}"
    if more() and rng.random() < 0.5:
      name = rng.choice(sorted(faults.DOWN))
      did = faults.DOWN[name](run, rng)
      if did is not None:
        told(name, did)


def compare(run: Run, peaceful: Run, *, bits: bool) -> list[str]:
  """What differs from the undisturbed run, in words."""
  wrong = []
  if bits:
    for i, (a, b) in enumerate(zip(run.final(), peaceful.final(), strict=True)):
      if not np.array_equal(a, b, equal_nan=True):
        wrong.append(f"array {i} of the final state differs, by {np.abs(a - b).max()}")
  data = config(str(run.dataset), run.steps_wanted).data
  wrong += ledger.once_per_epoch(run.noted(), data, CLIPS)
  clips = [collections.defaultdict(dict) for _ in range(2)]
  for found, of in zip(clips, (run, peaceful)):
    for step, row, ids in of.noted():
      found[step][row] = ids
  others = [step for step in clips[1] if clips[0][step] != clips[1][step]]
  return wrong + [f"step {step} was given other clips" for step in others]


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, megabytes: int = 48) -> Iterator[bool]:
  """A disk of that size at `folder`; False where this user may not mount one."""
  folder.mkdir(parents=True)
  mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
  mounted = shutil.which("mount") and not subprocess.run(
    mount, capture_output=True, check=False
  ).returncode
  try:
    yield bool(mounted)
  finally:
    if mounted:
      subprocess.run(["umount", "--lazy", str(folder)], check=False)


def write_dataset(out: pathlib.Path) -> pathlib.Path:
  out.mkdir(parents=True, exist_ok=True)
  return pathlib.Path(conftest.write_latents(out, num=CLIPS))


def _until_steps(run: Run, steps: int) -> None:
  """Waits for so many more steps, or the end of the run."""
  wanted, until = run.steps_of_attempt() + steps, time.monotonic() + _PATIENCE
  while run.process.poll() is None and run.steps_of_attempt() < wanted:
    if time.monotonic() > until:
      os.killpg(run.process.pid, signal.SIGKILL)
      raise AssertionError(f"no step in {_PATIENCE:.0f} s: {run.output()[-3000:]}")
    time.sleep(0.2)


def _sleep(run: Run, seconds: float) -> None:
  with contextlib.suppress(subprocess.TimeoutExpired):
    run.process.wait(seconds)
