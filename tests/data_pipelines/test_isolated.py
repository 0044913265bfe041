"""Calls that hang, crash or eat memory cost only themselves."""

import os
import time

import pytest

from data_pipelines import isolated


def behave(how: str, value: int) -> int:
  """What a worker runs; spawned, so it must be importable."""
  if how == "hang":
    time.sleep(60)
  if how == "crash":
    os.kill(os.getpid(), 9)
  if how == "eat":
    return len(bytearray(8 << 30))
  if how == "raise":
    raise ValueError(f"value {value} is wrong")
  return 2 * value


def test_only_the_call_itself_is_lost():
  hows = ["double", "hang", "crash", "double", "eat", "double"]
  calls = [(i, (how, i)) for i, how in enumerate(hows)]
  bounds = isolated.Bounds(seconds=6.0, memory=3 << 30)
  started = time.monotonic()
  results = dict(isolated.run(behave, calls, workers=2, bounds=bounds))
  assert time.monotonic() - started < 50
  assert {i: r for i, r in results.items() if isinstance(r, int)} == {0: 0, 3: 6, 5: 10}
  lost = {i: str(r) for i, r in results.items() if isinstance(r, isolated.Lost)}
  assert lost == {1: "timeout", 2: "crashed", 4: "out_of_memory"}


def test_what_a_call_raises_is_raised_here():
  calls = [(0, ("raise", 7))]
  with pytest.raises(ValueError, match="value 7 is wrong"):
    list(isolated.run(behave, calls, workers=1, bounds=isolated.Bounds()))


def test_nothing_to_do_starts_nothing():
  assert not list(isolated.run(behave, [], workers=4, bounds=isolated.Bounds()))
