"""One file of a user -> its clips on disk, as the first step of ingestion.

  SPOOL/NUMBER/0000.npy ...   the clips of the file with that number
  SPOOL/NUMBER.json           its row of the report; there when all of it is

Runs in a process of its own (isolated.py): a file that hangs, crashes or eats memory
costs only itself.
Used by: jobs/ingest.py. Next: media.py, filters.py.
"""

import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from data_pipelines import captioned_files, filters, media
from data_pipelines.captioned_files import CaptionedFile

Row = dict[str, Any]


def fill(
  number: int, file: CaptionedFile, spool: str | os.PathLike, limits: media.Limits,
  thresholds: filters.Thresholds,
) -> Row:  # fmt: skip
  """Reads the file once; the row says what became of it and of each of its clips."""
  spool = pathlib.Path(spool)
  temporary = spool / f"{number}.partial"
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir()
  clips: list[Row] = []

  def keep(clip: np.ndarray, first_frame: int) -> None:
    np.save(temporary / f"{len(clips):04d}.npy", clip)
    measures = filters.measure(clip, limits.fps)
    clips.append({
      "clip": f"{file.name}#{len(clips)}",
      "start": round(first_frame / limits.fps, 3),  # seconds into the file
      "size": list(clip.shape[1:3]),
      "reason": thresholds.reason(measures),
      **dataclasses.asdict(measures),
    })  # fmt: skip

  try:
    read = media.read(pathlib.Path(file.path), limits, keep)
  except media.MediaError as error:
    shutil.rmtree(temporary)
    return write_row(spool, number, skipped(file, error.reason, error.detail))
  kept = sum(not clip["reason"] for clip in clips)
  row = {
    "file": file.name,
    "status": "kept" if kept else "skipped",
    "reason": "" if kept else "filtered",
    "detail": "",
    "warnings": [*file.warnings, *read.warnings],
    "clips": kept,
    "frames": sum(clip["frames"] for clip in clips),
    "dropped_frames": read.dropped_frames,  # at the ends of shots, too few for a clip
    "size": clips[0]["size"],
    "source_size": list(read.source_size),
    "fps": limits.fps,
    "seconds": round(read.seconds, 3),  # of the source that were read
    "all_clips": clips,
  }
  folder = spool / str(number)
  shutil.rmtree(folder, ignore_errors=True)
  temporary.rename(folder)
  return write_row(spool, number, row)


def skipped(file: CaptionedFile, reason: str, detail: str) -> Row:
  """The row of a file without clips."""
  return {
    "file": file.name, "status": "skipped", "reason": reason,
    "detail": captioned_files.printable(detail),
    "warnings": list(file.warnings), "clips": 0, "all_clips": [],
  }  # fmt: skip


def write_row(spool: pathlib.Path, number: int, row: Row) -> Row:
  """Marks a file as done."""
  temporary = spool / f"{number}.json.{os.getpid()}"
  temporary.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
  temporary.replace(spool / f"{number}.json")
  return row


def read_row(spool: pathlib.Path, number: int) -> Row | None:
  """The row of a file that is done, None of any other."""
  path = spool / f"{number}.json"
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def load(spool: pathlib.Path, number: int, clip: int) -> np.ndarray:
  """uint8 [T, H, W, 3].

  Raises:
    ValueError: the file is no such clip; what a worker wrote is data, never a pickle.
  """
  path = spool / str(number) / f"{clip:04d}.npy"
  try:
    # Mapped, since a header may claim any size.
    frames = np.load(path, mmap_mode="r", allow_pickle=False)
  except (ValueError, EOFError) as error:
    raise ValueError(f"{path} is not a clip: {error}") from error
  if getattr(frames, "dtype", None) != np.uint8 or frames.shape[3:] != (3,):
    raise ValueError(f"{path} is not a clip: its frames are not uint8 RGB")
  return np.array(frames)
