"""Manifests of checkpoints: written when a step is complete, checked on the way back.

The manifest is what makes a step count, so it comes last. Every process hashes its share
of the files, both ways, and what one process finds is known to all.

Used by: training/checkpoint.py.
"""

import pathlib
import threading

import jax

from sora_jax import distributed
from sora_jax.training import metrics
from sora_jax.weights import folders


class Seals:
  """Writes the manifests of steps, in a thread, as they get complete."""

  def __init__(self, directory: pathlib.Path):
    self._directory = directory
    self._waiting: set[int] = set()  # saved, and without a manifest yet
    self._thread: threading.Thread | None = None

  def add(self, step: int) -> None:
    """A step that is being saved."""
    self._waiting.add(step)

  def lacks(self, step: int) -> bool:
    """Whether the manifest of a step that was added is not written."""
    return step in self._waiting

  def write(self, *, wait: bool = False) -> None:
    """Begins with the manifests that are due, or waits until they are there."""
    if self._thread is not None and (wait or not self._thread.is_alive()):
      self._thread.join()
      self._thread = None
    # Orbax's last file of a step says that it is done, on any file system.
    waiting = sorted(self._waiting) if self._thread is None else []
    done = [s for s in waiting if (self._folder(s) / "commit_success.txt").exists()]
    if done:
      self._thread = threading.Thread(target=self._write, args=(done,))
      self._thread.start()
      if wait:
        self._thread.join()

  def _write(self, steps: list[int]) -> None:
    for step in steps:
      try:
        folders.write_manifest(self._folder(step), share())
      except FileNotFoundError:
        pass  # deleted meanwhile, because newer ones are there
      except OSError as error:
        # There may be room the next time.
        metrics.tell(f"WARNING: no manifest for checkpoint {step} yet: {error}")
        continue
      self._waiting.discard(step)

  def _folder(self, step: int) -> pathlib.Path:
    return self._directory / str(step)


def share() -> tuple[int, int]:
  """This process's, as `folders.write_manifest` takes it."""
  return jax.process_index(), jax.process_count()


def verify(
  folder: pathlib.Path, *, within: tuple[str, ...] = (), sampled: float = 1.0
) -> bool:
  """`folders.verify`, shared by all processes; all of them find what one finds."""
  problem, checked = "", False
  try:
    checked = folders.verify(folder, within=within, share=share(), sampled=sampled)
  except (ValueError, OSError) as error:
    problem = str(error)
  me = str(jax.process_index())
  found = distributed.gather_states({me: [problem, checked]}).values()
  for problem, _ in found:
    if problem:
      raise ValueError(problem)
  return all(checked for _, checked in found)
