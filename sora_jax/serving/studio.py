"""Requests wait in a line before one generator; the newest results stay on disk.

  OUT/ID.mp4 or .png    what was made
  OUT/ID.json           its settings; there when the file is complete

Used by: server.py, sora_jax/serve.py.
"""

import contextlib
import dataclasses
import json
import pathlib
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from sora_jax.diffusion import samplers
from sora_jax.generation import canvas, prompts, video_files

_FIELDS = ("prompt", "size", "frames", "seed", "steps", "guidance")
_SEEDS = 1_000_000  # short to read
_FAILURES = 16  # that are told
_PROGRAMS = 32  # compiled for different settings; then memory is given back


class Full(Exception):
  """Too many requests wait already."""


class Generator(Protocol):
  """What makes the videos: generation/generator.py, or a stand-in."""

  grid: tuple[int, int, int]

  def generate(
    self, requests: list[canvas.Request], *, sampler: samplers.Sampler,
    guidance_scale: float,
  ) -> list[np.ndarray]:  # fmt: skip
    """uint8 [T, H, W, 3] of each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """How much one request may cost, and how many there may be."""

  tokens: int = 32_768  # that the model works on
  steps: int = 100
  guidance: float = 20.0
  prompt: int = 2_000  # characters
  waiting: int = 8  # requests
  kept: int = 48  # results


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
  """Of what a request does not say."""

  size: str = "32x32"
  frames: int = 9
  steps: int = 20
  guidance: float = 3.0


@dataclasses.dataclass(kw_only=True)
class Job:
  """A request, and what became of it."""

  id: str
  prompt: str
  frames: int
  height: int
  width: int
  seed: int
  steps: int
  guidance: float
  state: str = "waiting"  # running, done, failed
  file: str = ""
  error: str = ""
  seconds: float = 0.0  # that it took, or takes so far
  expected: float | None = None  # seconds, where the same was made before

  @property
  def cost(self) -> tuple[int, ...]:
    """What its time depends on."""
    return self.frames, self.height, self.width, self.steps


class Studio:
  """Takes requests at any time, and makes one after another."""

  def __init__(
    self, model: Generator, out: str | pathlib.Path, *, limits: Limits | None = None,
    defaults: Defaults | None = None, sampler: Callable = samplers.Euler, fps: float = 8.0,
  ):  # fmt: skip
    """Goes on with the results that stand in the folder `out`."""
    self.limits, self.defaults = limits or Limits(), defaults or Defaults()
    self.grid = tuple(model.grid)
    self._model, self._sampler, self._fps = model, sampler, fps
    self._out = pathlib.Path(out)
    self._out.mkdir(parents=True, exist_ok=True)
    self._changed = threading.Condition()
    self._jobs: dict[str, Job] = _standing(self._out)  # oldest first
    self._took: dict[tuple[int, ...], float] = {}
    self._programs: set[tuple] = set()
    self._began = 0.0

  def submit(self, body: Mapping[str, Any]) -> Job:
    """Puts a request into the line.

    Raises:
      ValueError: the request is none, or larger than the limits.
      Full: the line is as long as it may be.
    """
    job = self._job(body)
    with self._changed:
      if sum(j.state == "waiting" for j in self._jobs.values()) >= self.limits.waiting:
        raise Full(f"{self.limits.waiting} requests wait already; try again in a while")
      while job.id in self._jobs:
        job.id = _new_id()
      self._jobs[job.id] = job
      self._changed.notify()
    return job

  def _job(self, body: Mapping[str, Any]) -> Job:
    unknown = [name for name in body if name not in _FIELDS]
    if unknown:
      raise ValueError(f"there is no field {unknown[0]!r:.40}, only {', '.join(_FIELDS)}")
    limits, defaults = self.limits, self.defaults
    asked = prompts.request(
      body, size=defaults.size, frames=defaults.frames, seed=secrets.randbelow(_SEEDS)
    )
    if not asked.prompt.strip() or len(asked.prompt) > limits.prompt:
      raise ValueError(f"prompt must have 1 to {limits.prompt:,} characters")
    request = canvas.on_grid(asked, self.grid)
    tokens = canvas.num_tokens(request, self.grid)
    if tokens > limits.tokens:
      raise ValueError(
        f"{request.frames} frames of {request.height}x{request.width} are {tokens:,} "
        f"tokens, and this page takes {limits.tokens:,}: make it smaller or shorter"
      )
    steps = body.get("steps", defaults.steps)
    if type(steps) is not int or not 1 <= steps <= limits.steps:
      raise ValueError(f"steps must be a whole number from 1 to {limits.steps}")
    guidance = body.get("guidance", defaults.guidance)
    if type(guidance) not in (int, float) or not 0 <= guidance <= limits.guidance:
      raise ValueError(f"guidance must be a number from 0 to {limits.guidance:g}")
    return Job(
      id=_new_id(), prompt=request.prompt, frames=request.frames, height=request.height,
      width=request.width, seed=request.seed, steps=steps,
      guidance=round(float(guidance), 1),  # every other one is a program of its own
    )  # fmt: skip

  def state(self) -> list[dict[str, Any]]:
    """All jobs as JSON values, the newest first; `ahead` of those that wait."""
    with self._changed:
      rows, ahead = [], 0
      for job in self._jobs.values():
        row = dataclasses.asdict(job)
        if job.state == "running":
          row["seconds"] = time.monotonic() - self._began
          row["expected"] = self._took.get(job.cost)
        if job.state in ("waiting", "running"):
          row["ahead"], ahead = ahead, ahead + 1
        rows.append(row)
      return rows[::-1]

  def file(self, name: str) -> pathlib.Path | None:
    """The file of a result, None where no result has that name."""
    with self._changed:
      found = any(name and job.file == name for job in self._jobs.values())
    return self._out / name if found else None

  def run(self) -> None:
    """Makes what is asked for, for ever."""
    while True:
      self.run_one()

  def run_one(self) -> Job:
    """Makes the next one; waits for it where there is none."""
    with self._changed:
      while not (waiting := [j for j in self._jobs.values() if j.state == "waiting"]):
        self._changed.wait()
      job = waiting[0]
      job.state, self._began = "running", time.monotonic()
    try:
      made = dataclasses.replace(job, file=self._make(job), state="done")
      made.seconds = round(time.monotonic() - self._began, 2)
      _write(self._out / f"{job.id}.json", made)
    except Exception as failure:  # of one request; the next one may be fine
      made = dataclasses.replace(job, error=_told(failure), state="failed")
      made.seconds = round(time.monotonic() - self._began, 2)
      print(f"request {job.id} failed: {made.error}", file=sys.stderr, flush=True)
      self._remove(job)  # half a file, where the disk is full
    with self._changed:
      self._jobs[job.id] = made
      if made.state == "done":
        self._took[job.cost] = made.seconds
      self._forget()
    return made

  def _make(self, job: Job) -> str:
    request = canvas.Request(
      prompt=job.prompt, frames=job.frames, height=job.height, width=job.width,
      seed=job.seed,
    )  # fmt: skip
    self._programs.add((*job.cost, job.guidance))
    if len(self._programs) > _PROGRAMS:
      self._programs.clear()
      jax.clear_caches()
    video = self._model.generate(
      [request], sampler=self._sampler(num_steps=job.steps), guidance_scale=job.guidance
    )[0]
    upscale = max(1, 256 // max(video.shape[1:3]))
    return video_files.write_video_or_image(
      self._out / job.id, video, self._fps, upscale
    ).name

  def _forget(self) -> None:
    """Results beyond those that are kept, the oldest first; failures cost no result."""
    for state, kept in (("done", self.limits.kept), ("failed", _FAILURES)):
      for job in [job for job in self._jobs.values() if job.state == state][:-kept]:
        del self._jobs[job.id]
        self._remove(job)

  def _remove(self, job: Job) -> None:
    for suffix in (".json", ".partial", ".mp4", ".png"):
      with contextlib.suppress(OSError):  # the next request may be fine
        (self._out / f"{job.id}{suffix}").unlink()


def _new_id() -> str:
  return f"{time.time_ns():016x}"  # in the order in which they came


def _told(failure: Exception) -> str:
  """One line for those who asked."""
  text = (str(failure).strip() or type(failure).__name__).splitlines()[0][:300]
  if isinstance(failure, MemoryError) or "RESOURCE_EXHAUSTED" in text:
    return "there is not enough memory for this: make it smaller or shorter"
  if isinstance(failure, ValueError):
    return text
  if isinstance(failure, OSError):  # whose text would tell our paths
    return f"the server cannot read or write a file: {failure.strerror or 'unknown'}"
  return f"the generator failed ({type(failure).__name__}: {text})"


def _write(path: pathlib.Path, job: Job) -> None:
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
  partial.replace(path)


def _standing(out: pathlib.Path) -> dict[str, Job]:
  """The results of an earlier time, by their id; what is no result is left alone."""
  found = {}
  for path in sorted(out.glob("*.json")):
    try:
      job = Job(**json.loads(path.read_text(encoding="utf-8")))
      names = (f"{path.stem}.mp4", f"{path.stem}.png")
      if job.id == path.stem and job.file in names and (out / job.file).is_file():
        found[job.id] = job
    except (ValueError, TypeError, RecursionError):
      continue
  return found
