"""Calls that hang, crash or eat memory cost only themselves; answers are data."""

import os
import pathlib
import pickle
import resource
import sys
import time

import pytest

from data_pipelines import isolated
from data_pipelines.limits import Limits


class Trap:
  """Makes a file, where somebody unpickles it."""

  def __init__(self, canary):
    self.canary = str(canary)

  def __reduce__(self):
    return open, (self.canary, "w")


def behave(how: str, value: int = 0, given=None):
  """What a worker runs, in a process of its own: it must be importable."""
  if how == "hang":
    time.sleep(60)
  if how == "crash":
    os.kill(os.getpid(), 9)
  if how == "eat":
    return len(bytearray(8 << 30))
  if how == "fill the disk":
    with pathlib.Path(given, "big").open("wb") as file:
      file.truncate(1 << 40)
  if how == "talk much":
    return "x" * (2 << 20)
  if how == "chat":
    print("this is not the answer", input if sys.stdin.read() else "")
  if how == "limits":
    return [given == Limits(fps=5.0), value]
  if how == "environment":
    return dict(os.environ)
  if how == "object":
    return Trap("nowhere")
  kinds = {"value": ValueError, "os": OSError, "ours": ZeroDivisionError}
  if how in kinds:
    raise kinds[how](f"value {value} is wrong")
  return 2 * value


def run(*calls, **bounds):
  """What came of each call; `Lost` as its text."""
  found = isolated.run(
    behave, list(enumerate(calls)), workers=2, bounds=isolated.Bounds(**bounds)
  )
  results = {i: str(x) if isinstance(x, isolated.Lost) else x for i, x in found}
  return [results[i] for i in range(len(calls))]


def test_only_the_call_itself_is_lost(tmp_path):
  started = time.monotonic()
  found = run(
    ("double", 1), ("hang",), ("crash",), ("double", 2), ("eat",),
    ("fill the disk", 0, str(tmp_path)), ("talk much",), ("chat", 3),
    seconds=4.0, memory=3 << 30, answer=1 << 20,
  )  # fmt: skip
  assert time.monotonic() - started < 50
  assert found == [
    2, "timeout", "crashed", 4, "out_of_memory", "file_too_large", "bad_answer", 6
  ]  # fmt: skip


def test_arguments_are_what_configs_hold():
  odd = "a\udcff\n\"{é"
  assert run(("limits", odd, Limits(fps=5.0))) == [[True, odd]]


@pytest.mark.parametrize(
  ("how", "kind", "message"),
  [
    ("value", ValueError, "value 7 is wrong"), ("os", OSError, "value 7 is wrong"),
    ("ours", RuntimeError, "ZeroDivisionError: value 7 is wrong"),
    ("object", RuntimeError, "TypeError: Object of type Trap"),
  ],
)  # fmt: skip
def test_what_a_call_raises_is_raised_here(how, kind, message):
  with pytest.raises(kind, match=message):
    run((how, 7))


def test_nothing_to_do_starts_nothing(monkeypatch):
  monkeypatch.setattr(isolated, "_Worker", None)
  assert run() == []


def test_what_a_worker_says_is_never_unpickled(tmp_path, monkeypatch):
  """A worker that was taken over may say anything."""
  worker, said = tmp_path / "worker", tmp_path / "said"
  worker.write_text(f"#!/bin/sh\necho ready\nread call\ncat {said}\nsleep 20\n")
  worker.chmod(0o755)
  monkeypatch.setattr(isolated.sys, "executable", str(worker))
  trap = pickle.dumps(Trap(tmp_path / "canary"))
  for bad in (
    trap + b"\n", b"\n", b"[" * 100_000 + b"\n", b"{}\n", b"[1]\n", b'{"lost": 3}\n',
    b'{"ValueError": ["a"]}\n', b'{"result": 1, "lost": "a"}\n', b'{"SystemExit": "a"}\n',
    b'{"result": 1}\n{"result": 2}\n', b"x" * 70_000,
  ):  # fmt: skip
    said.write_bytes(bad)
    assert run(("double", 1), answer=65_536, seconds=10.0) == ["bad_answer"], bad[:40]
  said.write_bytes(b'{"result": "half an ans')
  assert run(("double", 1), seconds=0.5) == ["timeout"]
  said.write_bytes(b'{"result": 5}\n')
  assert run(("double", 1)) == [5]
  assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("script", ["exit 3", "sleep 20", "echo not yet; sleep 20"])
def test_a_worker_that_cannot_start_is_no_call_that_was_lost(script, tmp_path, monkeypatch):
  worker = tmp_path / "worker"
  worker.write_text(f"#!/bin/sh\n{script}\n")
  worker.chmod(0o755)
  monkeypatch.setattr(isolated.sys, "executable", str(worker))
  monkeypatch.setattr(isolated, "_START", 0.3)
  with pytest.raises(ValueError, match=r"cannot start \((crashed|timeout)\)"):
    run(("double", 1))


def test_a_lower_limit_of_the_machine_holds(monkeypatch):
  """Only root may raise one."""
  limits = {resource.RLIMIT_AS: 5 << 30, resource.RLIMIT_FSIZE: resource.RLIM_INFINITY}
  monkeypatch.setattr(resource, "getrlimit", lambda kind: (1, limits[kind]))
  found = {}
  monkeypatch.setattr(resource, "setrlimit", found.__setitem__)
  for wanted, given in ((8 << 30, 5 << 30), (3 << 30, 3 << 30)):
    isolated._limit(resource.RLIMIT_AS, wanted)
    isolated._limit(resource.RLIMIT_FSIZE, wanted)
    assert found == {
      resource.RLIMIT_AS: (given, given), resource.RLIMIT_FSIZE: (wanted, wanted)
    }  # fmt: skip


def test_workers_have_nobodys_keys(monkeypatch):
  for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PATH", "PATHS"):
    monkeypatch.setenv(name, "secret")
  for name in ("OMP_NUM_THREADS", "LC_NUMERIC", "TMPDIR", "PYTHONHASHSEED"):
    monkeypatch.setenv(name, "1")
  (found,) = run(("environment",))
  assert "secret" not in found.values() and found["PATH"] == os.environ["PATH"]
  assert all(isolated._ENVIRONMENT.fullmatch(name) for name in found)
  assert {"OMP_NUM_THREADS", "LC_NUMERIC", "TMPDIR", "PYTHONHASHSEED"} < set(found)
