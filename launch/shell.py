"""Commands as lists of words: printed, or printed and run.

Used by: every launcher.
"""

import argparse
import shlex
import subprocess
import sys

Command = list[str]
# Exit codes of our commands: the same again would fail the same; and what a run that
# SIGTERM ended says if it is told so by this variable: again, please.
USER_ERROR = 2
PREEMPTED = {"SORA_JAX_PREEMPTED_CODE": "75"}


def exports() -> list[str]:
  """Lines of a script that give `PREEMPTED` to the training command."""
  return [f"export {name}={value}" for name, value in PREEMPTED.items()]


def run_all(commands: list[Command], *, dry_run: bool) -> None:
  """Runs them in order and stops at the first that fails; prints each before.

  Raises:
    SystemExit: a program is missing or ends with an error.
  """
  for command in commands:
    print(shlex.join(command), flush=True)
    if dry_run:
      continue
    try:
      code = subprocess.run(command).returncode
    except FileNotFoundError:
      sys.exit(f"error: {command[0]} is not installed or not on the PATH")
    if code:
      sys.exit(f"error: {command[0]} ended with {code}; nothing after it was run")


def parser(doc: str) -> argparse.ArgumentParser:
  """A parser with --dry_run whose rest, after --, is the training command."""
  made = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )  # fmt: skip
  made.add_argument("--dry_run", action="store_true", help="print, run nothing")
  return made


def parse(made: argparse.ArgumentParser) -> tuple[argparse.Namespace, Command]:
  """(options, the command behind --)."""
  arguments = sys.argv[1:]
  own, rest = arguments, []
  if "--" in arguments:
    cut = arguments.index("--")
    own, rest = arguments[:cut], arguments[cut + 1 :]
  return made.parse_args(own), rest


def required(command: Command) -> Command:
  """The command behind --, which this action needs."""
  if not command:
    sys.exit(
      "error: give the training command behind --, for example\n"
      "  -- python -m sora_jax.train --config=configs/t2v.py:1.3b --workdir=/gcs/run"
    )
  return command
