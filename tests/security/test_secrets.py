"""What is secret stays where it was given: in no file, no output, no log of ours."""

import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

from sora_jax.training import metrics
from sora_jax.training import workdir as workdir_lib

ROOT = pathlib.Path(__file__).parents[2]
SECRETS = {
  name: f"not-to-be-told-{i}-{name.lower()}"
  for i, name in enumerate((
    "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS", "GITHUB_TOKEN",
  ))
}  # fmt: skip


def told(text: str | bytes) -> list[str]:
  """The secrets in a text."""
  text = text if isinstance(text, bytes) else text.encode()
  return [name for name, value in SECRETS.items() if value.encode() in text]


def test_a_run_writes_none(helpers, tmp_path, monkeypatch, capfd):
  """Everything by which a run writes, but for its arrays."""
  given = []
  wandb = types.SimpleNamespace(init=lambda **options: given.append(options))
  monkeypatch.setitem(sys.modules, "wandb", wandb)
  for name, value in SECRETS.items():
    monkeypatch.setenv(name, value)
  workdir = tmp_path / "runs" / "run"
  workdir_lib.claim(workdir, helpers.tiny_config("data", wandb_project="mine"))
  log = metrics.MetricLog(workdir, first_step=0, wandb_project="mine")
  log._wandb = None
  log.write(1, {"loss": 1.0})
  log.close()
  files = [path for path in tmp_path.rglob("*") if path.is_file()]
  assert {"config.json", "metrics.jsonl"} < {path.name for path in files}, "and events"
  assert not [path for path in files if told(path.read_bytes())]
  assert given[0]["project"] == "mine" and not told(repr(given))
  assert not told("".join(capfd.readouterr()))


@pytest.mark.parametrize("how", ["short", "file"])
def test_the_server_says_none(tmp_path, how):
  """However it fails: its token is not in the message, nor is anybody's key."""
  token = SECRETS["HF_TOKEN"]
  (tmp_path / "token").write_text(token + "\n")
  options = {
    "short": [f"--token={token[:8]}", "--host=0.0.0.0"],
    "file": [f"--token_file={tmp_path / 'token'}", "--host=0.0.0.0"],
  }[how]
  done = subprocess.run(
    [sys.executable, "-m", "sora_jax.serve", f"--workdir={tmp_path}", *options], cwd=ROOT,
    env=os.environ | SECRETS, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  said = done.stdout + done.stderr
  assert done.returncode == 2 and said.startswith("error: ") and "Traceback" not in said
  assert not told(said) and token[:8] not in said


def test_no_program_reads_the_environment_into_files():
  """Whoever asks for all of the environment could write it down."""
  allowed = {
    "data_pipelines/isolated.py", "launch/local.py",  # hand it on to processes
    "benchmarks/measuring.py", "benchmarks/pods.py",
  }  # fmt: skip
  whole = re.compile(r"os\.environ(?!\[|\.get\(|\.setdefault\(|\.pop\()(?! *$)")
  found = set()
  for package in ("sora_jax", "data_pipelines", "configs", "launch", "benchmarks"):
    for path in (ROOT / package).rglob("*.py"):
      lines = path.read_text().splitlines()
      if any(whole.search(line) and " in os.environ" not in line for line in lines):
        found.add(str(path.relative_to(ROOT)))
  assert found == allowed
