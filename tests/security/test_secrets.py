"""What is secret stays where it was given: in no output of ours, and with no worker."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

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


def takes_all(source: str) -> bool:
  """Whether a program takes the environment whole, not by the names of variables."""
  tree = ast.parse(source)
  fine = set()
  for node in ast.walk(tree):
    by_name = isinstance(node, ast.Attribute) and node.attr in ("get", "setdefault", "pop")
    if by_name or isinstance(node, ast.Subscript):
      fine.add(node.value)
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
      fine.add(node.comparators[0])
  names = {"environ", "environb"}
  return any(
    (isinstance(node, ast.Attribute) and node.attr in names and node not in fine)
    or (isinstance(node, ast.ImportFrom) and names & {alias.name for alias in node.names})
    for node in ast.walk(tree)
  )


@pytest.mark.parametrize(
  ("source", "whole"),
  [
    ("json.dumps(dict(os.environ))", True), ("x = os.environ.copy()", True),
    ("for name in os.environ:\n  print(name)", True), ("os.environ | {'a': '1'}", True),
    ("from os import environ as e", True), ("f(os.environb)", True),
    ("{**os.environ}", True), ("os.environ['A'] = os.environ.get('B', '')", False),
    ("x = 'A' in os.environ\nos.environ.setdefault('A', '1')", False),
  ],
)  # fmt: skip
def test_how_the_environment_is_taken(source, whole):
  assert takes_all(source) == whole


def test_no_program_takes_all_of_the_environment():
  """Whoever has all of it could write it down, or give it to a stranger's file."""
  allowed = {
    "data_pipelines/isolated.py",  # hands on what its list of names has
    "launch/local.py", "benchmarks/measuring.py", "benchmarks/pods.py",  # to our own
  }  # fmt: skip
  packages = ("sora_jax", "data_pipelines", "configs", "launch", "benchmarks")
  files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
  found = {str(f.relative_to(ROOT)) for f in files if takes_all(f.read_text())}
  assert found == allowed
