"""How every command starts and fails: flags by absl, user errors in one line.

Nothing of the environment, and no token of a flag, is printed or written down: a config
holds what its fields say, and no field is a secret (tests/security/test_secrets.py).

Used by: the verbs, the jobs of data_pipelines.
"""

import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from sora_jax import distributed

_TRACEBACK = flags.DEFINE_bool(
  "traceback", False, "Show the Python traceback of a user error too."
)
# What a user can mend. Other errors of the system may be gone the next time, so that a
# launcher starts the run again.
_USERS = (ValueError, FileNotFoundError, FileExistsError, PermissionError,
          IsADirectoryError, NotADirectoryError)  # fmt: skip
_USERS_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EADDRINUSE)


def run(main: Callable[[], None]) -> None:
  """Parses the flags and runs `main`; an error of the user's exits with 2."""
  # absl's own greeting on stderr, and the compiler's chatter, are not for users.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  logging.set_verbosity(logging.ERROR)
  warnings.showwarning = _show_warning

  def guarded(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      _fail(f"unexpected argument {argv[1]!r}; options start with --")
    try:
      main()
    except KeyboardInterrupt:
      print("interrupted; the same command goes on from here", file=sys.stderr)
      distributed.fail("interrupted", 130)
      sys.exit(130)
    except Exception as error:
      _end(error)
      raise

  app.run(guarded, flags_parser=_parse)


def _parse(
  argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
  try:
    return flag_values(argv)
  except (flags.Error, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
    message = str(error.args[0] if isinstance(error, KeyError) else error)
    # config_flags quotes a whole traceback; its last paragraph is what went wrong.
    flag, _, traceback = message.partition("Error whilst parsing config file:")
    if traceback:
      message = flag + re.split(r"\n\w+(?:Error|Exception): ", traceback)[-1]
    _fail(f"{message.strip()}\nSee {os.path.basename(argv[0])} --help")
  return []


def _end(error: Exception) -> None:
  """Ends this process, and others of the run; comes back for a traceback if it is alone."""
  is_users = isinstance(error, _USERS) or getattr(error, "errno", None) in _USERS_CODES
  if is_users and not _TRACEBACK.value:
    _fail(str(error))
  if isinstance(error, jax.errors.JaxRuntimeError):
    distributed.wait_for_verdict()
  if distributed.has_peers():
    traceback.print_exc()
    distributed.fail(repr(error), 2 if is_users else 1)


def _fail(message: str) -> None:
  print(f"error: {message}", file=sys.stderr)
  distributed.fail(message, 2)
  sys.exit(2)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
  print(f"warning: {message}", file=sys.stderr)
