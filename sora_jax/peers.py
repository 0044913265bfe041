"""Whether the other processes of a run are still there.

Without care a process that dies leaves the others waiting in a collective for minutes,
and then with an abort that names nobody. Here every process leaves a sign of life with
JAX's coordination service; the first process reads them, and its verdict ends all:

  lost    one that was killed, or whose machine or network is gone; exit code 75
  failed  one that ended with an error, which the others repeat; its exit code

A launcher starts the run again after any code but 0 and 2, which is the user's to mend.
The loss of the first process, which runs the service, JAX itself sees, and ends the rest.

Used by: distributed.py (which starts it), cli.py.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time

import jax
from jax._src import distributed as jax_distributed  # the service has no public face

LOST = 75  # "temporary failure; try again", as sysexits.h has it
_INTERVAL = 2.0  # seconds from sign to sign
_PATIENCE = 20.0  # seconds without one, until a process counts as lost
_SIGNS, _VERDICTS = "sora_jax/signs/", "sora_jax/verdicts/"  # folders of the service


class Peers:
  """Signs of life of this process, and in the first one a look at all others'."""

  def __init__(self):
    self._client = jax_distributed.global_state.client
    self._me = jax.process_index()
    self._beats, self._leaving = 0, False
    self._heard: dict[str, tuple[str, float]] = {}  # process: (its sign, when it was new)
    self._sign()
    threading.Thread(target=self._watch, daemon=True).start()

  def leave(self) -> None:
    """This process is about to end, and will not be missed."""
    self._leaving = True
    self._try(self._sign)

  def fail(self, message: str, code: int) -> None:
    """Ends this process and all others with an error of this one."""
    message = f"process {self._me} ended with an error: {message}"
    self._try(lambda: self._tell(message, code))
    if self._me == 0:
      time.sleep(2 * _INTERVAL)  # the service is in this process, and ends with it
    _exit(code)

  def wait_for_verdict(self) -> None:
    """After an error in a collective: ends this process if another one is to blame."""
    time.sleep(_PATIENCE + 5 * _INTERVAL)

  def _watch(self) -> None:
    while True:
      time.sleep(_INTERVAL)
      self._try(self._look)

  def _look(self) -> None:
    self._beats += 1
    self._sign()
    if self._me == 0:
      self._judge()
    verdicts = sorted(self._client.key_value_dir_get(_VERDICTS))
    if verdicts:
      if self._me == 0:
        time.sleep(2 * _INTERVAL)  # until the others have read it too
      self._end(**json.loads(verdicts[0][1]))

  def _sign(self) -> None:
    text = "left" if self._leaving else self._beats
    sign = f"{text} {socket.gethostname()} {os.getpid()}"
    self._client.key_value_set(f"{_SIGNS}{self._me}", sign, allow_overwrite=True)

  def _judge(self) -> None:
    """The first process looks for signs that have not changed."""
    now = time.monotonic()
    for key, sign in self._client.key_value_dir_get(_SIGNS):
      process = key.removeprefix(_SIGNS)
      if self._heard.get(process, ("", 0.0))[0] != sign:
        self._heard[process] = sign, now
      text, host, pid = sign.split(" ")
      silent = now - self._heard[process][1]
      if text != "left" and silent > _PATIENCE:
        self._tell(
          f"process {process} (host {host}, pid {pid}) is lost: not heard of for "
          f"{silent:.0f} s", LOST,
        )  # fmt: skip

  def _tell(self, message: str, code: int) -> None:
    """A verdict; each process has a place of its own for one."""
    verdict = json.dumps({"message": message, "code": code})
    key = f"{_VERDICTS}{self._me}"
    self._client.key_value_set(key, verdict, allow_overwrite=True)

  def _try(self, call) -> None:
    # The service may be gone for a moment; for good, JAX ends this process.
    with contextlib.suppress(Exception):
      call()

  def _end(self, message: str, code: int) -> None:
    again = "" if code == 2 else (
      "; all processes end now, and the same command goes on from the newest checkpoint"
    )  # fmt: skip
    with contextlib.suppress(OSError):  # of a full disk
      print(f"error: {message}{again}", file=sys.stderr, flush=True)
    _exit(code)


def _exit(code: int) -> None:
  """At once: an orderly end would wait for processes that are gone."""
  try:
    sys.stdout.flush()
    sys.stderr.flush()
  finally:
    os._exit(code)
