"""A training step compiled for TPUs that are not there, and what is read off it."""

import json
import math
import subprocess
import sys

import pytest

from sora_jax.aot import topology

ARGUMENTS = [
  "--config=configs/t2v.py:S-image", "--config.objective.model.backbone.depth=2",
  "--config.data.tokens_per_row=1024", "--config.data.text_tokens_per_row=256",
  "--config.objective.model.backbone.attention.block=256", "--clips=4",
]  # fmt: skip


def compiled(*words: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-m", "sora_jax.compile", *ARGUMENTS, *words],
    capture_output=True, text=True, check=False,
  )  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
  pytest.importorskip("libtpu", reason="the TPU compiler is for Linux on x86-64 only")
  out = tmp_path_factory.mktemp("compile") / "report.json"
  done = compiled("--topology=v5e:2x2", "--mesh=context=2", f"--out={out}")
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(out.read_text()), done.stdout


def test_memory_is_that_of_the_sharded_state(result):
  found, _ = result
  assert found["mesh"] == {"fsdp": 2, "context": 2} and found["devices"] == 4
  # Parameters, two moments and the average, in float32; nearly all of it sharded.
  state = 4 * 4 * found["parameters"] / found["devices"] / 2**30
  memory = found["memory_gib"]
  assert state < memory["arguments"] < 1.3 * state + 0.01
  assert memory["reused"] == pytest.approx(memory["outputs"], abs=0.01), "donated"
  assert found["fits"] and memory["peak"] < memory["chip"] == 14.9


def test_weights_are_gathered_and_gradients_scattered(result):
  found, _ = result
  by_kind = {(c["kind"], c["axes"]): c["bytes"] for c in found["collectives"]}
  kernels = 2 * found["parameters"]  # bytes in bfloat16
  gathered = sum(size for (kind, _), size in by_kind.items() if kind == "all-gather")
  assert gathered > 0.5 * kernels
  assert any(kind == "reduce-scatter" for kind, _ in by_kind)
  assert any(kind == "all-to-all" and "context" in axes for kind, axes in by_kind)


def test_work_and_bounds_are_told(result):
  found, text = result
  assert 1.0 < found["flops"]["hardware_over_model"] < 3.0
  assert found["mfu_bound"] <= 1.0 and all(map(math.isfinite, found["bound_s"].values()))
  for words in ("compiled in", "not run", "GiB: fits", "MFU at most", "all-to-all"):
    assert words in text


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--topology=v5e:2x2", "--mesh=fast=2"], "'fast=2' must be AXIS=SIZE"),
    (["--topology=v5e:2x2", "--mesh=tensor=4"], "4 devices along tensor must divide 6"),
  ],
)
def test_what_does_not_fit_is_named(words, message):
  pytest.importorskip("libtpu", reason="the TPU compiler is for Linux on x86-64 only")
  done = compiled(*words)
  assert done.returncode == 2 and message in done.stderr
  assert "Traceback" not in done.stderr


def test_kinds_that_there_are_not_are_named():
  for wrong in ("v9:2x2", "v5p", ""):
    with pytest.raises(ValueError, match=f"--topology={wrong} must be KIND:SHAPE"):
      topology.chip_of(wrong)
