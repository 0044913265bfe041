"""The script that every worker of a TPU VM runs: set-up, bucket, restarts, log.

Used by: tpu_vm.py, multislice.py.
"""

import shlex

from launch import shell

HOME = "sora_jax_run"  # on the worker, below the home folder
LOG = f"{HOME}/train.log"


def setup(bucket: str | None) -> str:
  """Installs the code that was copied to ~/sora_jax_run, and mounts the bucket."""
  lines = [
    "set -e", f"cd ~/{HOME}",
    "python3 -c 'import sys; assert sys.version_info >= (3, 11), sys.version'",
    "python3 -m venv .venv",
    ".venv/bin/python -m pip install -q -c constraints.txt -e .[tpu]",
  ]  # fmt: skip
  if bucket:
    # Every host sees one folder: checkpoints are written by all of them.
    lines += [
      "sudo mkdir -p /gcs && sudo chown $USER /gcs",
      # Checkpoints are folders that get their name when they are complete.
      "mountpoint -q /gcs || gcsfuse --implicit-dirs --rename-dir-limit=1000000 "
      f"{shlex.quote(bucket)} /gcs",
    ]
  return "\n".join(lines)


def start(command: list[str], *, init_args: str, restarts: int) -> str:
  """Runs the command in the background, again after a crash, with one log a host.

  `stop` ends the loop with the run; what is started next goes on from the newest
  checkpoint.
  """
  words = shlex.join(command)
  loop = (
    f"for attempt in $(seq 0 {restarts}); do {words} && exit 0; code=$?; "
    'echo "attempt $attempt ended with $code"; '
    f"[ $code -eq {shell.USER_ERROR} ] && exit $code; "
    "sleep 30; done"
  )
  return "\n".join([
    "set -e", f"cd ~/{HOME}", "source .venv/bin/activate",
    f"export LIBTPU_INIT_ARGS={shlex.quote(init_args)}",
    *shell.exports(),
    f"nohup setsid bash -c {shlex.quote(loop)} > ~/{LOG} 2>&1 < /dev/null &",
    f"echo $! > ~/{HOME}/pid",
  ])  # fmt: skip


def follow() -> str:
  return f"tail -n 100 -F ~/{LOG}"


def stop(grace_seconds: int) -> str:
  """SIGTERM, so that a write under way can end; SIGKILL for what is left."""
  group = f"$(cat ~/{HOME}/pid)"
  return (
    f"kill -TERM -- -{group} || exit 0; for i in $(seq {grace_seconds}); do "
    f"kill -0 -- -{group} 2>/dev/null || exit 0; sleep 1; done; kill -KILL -- -{group}"
  )
