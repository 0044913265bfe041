"""Several processes on this machine as one run, over loopback.

  python -m launch.local --num_processes=4 --devices=2 -- \\
      python -m sora_jax.train --config=configs/demo.py:dit --workdir=runs/four \\
      --config.data.path=LATENTS --config.codec=WORKDIR

Each process has --devices fake CPU devices. What is true of a pod's processes can be
tried here: the order of the data, checkpoints of many processes, a lost process. When
one ends with an error, the others are stopped, and all are started again if --restarts
says so and the error is not the user's (code 2). Output is prefixed with the process's
number; --quiet shows only the first's.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time

from launch import shell

_GRACE_SECONDS = 30.0


def environment(number: int, num_processes: int, devices: int, port: int) -> dict[str, str]:
  """What makes process `number` one of the run; further XLA flags stay."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  return {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
    "JAX_NUM_PROCESSES": str(num_processes),
    "JAX_PROCESS_ID": str(number),
  }


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


class Launcher:
  """Starts the processes, and passes signals on to them."""

  def __init__(self, command: list[str], *, num_processes: int, devices: int, quiet: bool):
    self._command, self._quiet = command, quiet
    self._num_processes, self._devices = num_processes, devices
    self._processes: list[subprocess.Popen] = []
    self.told = False  # to stop, by a signal
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._forward)

  def _forward(self, signum: int, frame) -> None:
    del frame
    self.told = True
    for process in self._processes:
      if process.poll() is None:
        process.send_signal(signum)

  def run(self) -> int:
    """Runs all processes to their end; the first error code, or 0."""
    port = free_port()
    self._processes, readers = [], []
    for number in range(self._num_processes):
      place = environment(number, self._num_processes, self._devices, port)
      process = subprocess.Popen(
        self._command, env=os.environ | place, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
      )  # fmt: skip
      self._processes.append(process)
      shown = not self._quiet or number == 0
      readers.append(threading.Thread(target=_copy, args=(number, process, shown)))
      readers[-1].start()
    code = _wait(self._processes)
    for reader in readers:
      reader.join()
    return code


def _wait(processes: list[subprocess.Popen]) -> int:
  """Waits for all; when one fails, the others get some seconds and are killed."""
  deadline, first = None, 0
  while any(process.poll() is None for process in processes):
    failed = [i for i, process in enumerate(processes) if process.poll()]
    if failed and deadline is None:
      first = processes[failed[0]].returncode
      print(f"process {failed[0]} ended with {first}; stopping the others", flush=True)
      deadline = time.monotonic() + _GRACE_SECONDS
      for process in processes:
        if process.poll() is None:
          process.terminate()
    if deadline is not None and time.monotonic() > deadline:
      for process in processes:
        process.kill()
    time.sleep(0.1)
  return first or next((p.returncode for p in processes if p.returncode), 0)


def _copy(number: int, process: subprocess.Popen, shown: bool) -> None:
  for line in process.stdout:
    if shown:
      print(f"[{number}] {line}", end="", flush=True)


def main() -> None:
  made = shell.parser(__doc__)
  made.add_argument("--num_processes", type=int, default=2)
  made.add_argument("--devices", type=int, default=1, help="fake ones of each process")
  made.add_argument("--restarts", type=int, default=0, help="after crashes")
  made.add_argument("--quiet", action="store_true", help="show the first process only")
  options, command = shell.parse(made)
  shell.required(command)
  if min(options.num_processes, options.devices) < 1:
    sys.exit("error: --num_processes and --devices must be at least 1")
  if command[0] == "python":
    command = [sys.executable, *command[1:]]
  if options.dry_run:
    for number in range(options.num_processes):
      words = environment(number, options.num_processes, options.devices, 12345)
      print(*(f"{k}={shlex.quote(v)}" for k, v in words.items()), shlex.join(command))
    return
  launcher = Launcher(
    command, num_processes=options.num_processes, devices=options.devices,
    quiet=options.quiet,
  )  # fmt: skip
  if options.restarts:
    os.environ |= shell.PREEMPTED
  for attempt in range(options.restarts + 1):
    code = launcher.run()
    if launcher.told or code in (0, shell.USER_ERROR) or attempt == options.restarts:
      break
    print(f"attempt {attempt} ended with {code}; all are started again", flush=True)
  sys.exit(code)


if __name__ == "__main__":
  main()
