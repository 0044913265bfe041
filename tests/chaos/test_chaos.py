"""A few faults, always the same ones; `python -m tests.chaos` is the same for longer."""

import random

import numpy as np
import pytest

from tests.chaos import harness


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """(disturbed, undisturbed, what was done)."""
  out = tmp_path_factory.mktemp("chaos")
  dataset = harness.write_dataset(out / "data")
  peaceful = harness.undisturbed(dataset, out, steps=60)
  run = harness.Run(dataset, out / "run", out / "notes", 60)
  done = []
  harness.disturbed(
    run, random.Random(4), processes=[1], more=lambda: len(done) < 3,
    told=lambda name, did: done.append(name), within=6,
  )  # fmt: skip
  return run, peaceful, done


def test_a_disturbed_run_ends_with_the_bits_of_one_in_peace(runs):
  run, peaceful, done = runs
  assert len(done) >= 2 and run.attempts >= 2
  assert harness.compare(run, peaceful, bits=True) == []


def test_the_comparison_sees_other_bits_and_other_clips(runs):
  run, peaceful, _ = runs
  arrays = run.final()
  arrays[3] = np.nextafter(arrays[3], 1)
  np.savez(run.notes / "final.npz", *arrays)
  (run.notes / "steps_0_9.jsonl").write_text("[5, 2, [7]]\n")
  wrong = "\n".join(harness.compare(run, peaceful, bits=True))
  assert "array 3 of the final state differs" in wrong
  assert "step 5 was given other clips" in wrong
