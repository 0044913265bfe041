"""Hundreds of malformed inputs: a clear error or a counted skip each, and nothing else."""

import collections
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
MEMORY = 1 << 30  # bytes that trying them all may take at its peak; a decoder has its own


def test_each_is_an_error_or_a_skip(tmp_path):
  """All in one process, so that one that crashes or hangs it is noticed."""
  out = tmp_path / "results.json"
  done = subprocess.run(
    [sys.executable, "-m", "tests.security.malformed", str(out)], cwd=ROOT,
    capture_output=True, text=True, timeout=240,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  results = json.loads(out.read_text())
  wrong = [row for row in results["rows"] if row[2] not in ("error", "skip", "fine")]
  assert not wrong, "\n\n".join(": ".join(row[:3]) for row in wrong[:3])
  told = [(kind, words) for kind, _, found, words in results["rows"] if found != "fine"]
  assert len(told) >= 200 and all(words for _, words in told)
  kinds = collections.Counter(kind for kind, _ in told)
  assert min(kinds.values()) >= 10 and set(kinds) == {
    "media", "manifest", "safetensors", "dataset", "config", "override", "request",
    "prompts file",
  }  # fmt: skip
  assert results["memory"] < MEMORY
  assert "Traceback" not in done.stderr
