"""Makes a dataset of clips from a folder of the user's videos and photos.

  python -m data_pipelines.jobs.ingest --videos=DIR --out=DIR

The folder has files of any format, also in folders below it, and their captions: lines
{"file": "cat.mp4", "caption": "A cat."} in manifest.jsonl, or cat.txt beside cat.mp4. A
file that cannot be used is skipped; it never stops the job. The dataset is a TFDS
dataset in ArrayRecord; clips of one file are all in train or all in test. Beside it,
ingest_report.jsonl has a line for each file. A finished dataset of the same files and
settings is reused; an unfinished one is never under the final name.

Used by: users, before a codec is trained. Next: ../captioned_files.py, ../media.py.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from data_pipelines import captioned_files, datasets, media
from data_pipelines.builders import folder_clips
from data_pipelines.captioned_files import CaptionedFile
from sora_jax import cli
from sora_jax.training import metrics

_REPORT = "ingest_report.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What the clips look like, and how many files are held out."""

  limits: media.Limits = dataclasses.field(default_factory=media.Limits)
  test_fraction: float = 0.1  # of the files

  def __post_init__(self) -> None:
    if not 0 <= self.test_fraction < 1:
      raise ValueError(f"test_fraction={self.test_fraction} must be in [0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IngestResult:
  """Where the dataset is, and what became of each file."""

  dataset: str  # versioned folder, for tfds.builder_from_directory
  rows: list[dict[str, Any]]  # of ingest_report.jsonl
  reused: bool


def ingest(
  videos: str | os.PathLike, out: str | os.PathLike, *, settings: Settings | None = None
) -> IngestResult:
  """Reads each file of the folder `videos` once; the dataset is below `out`.

  Raises:
    ValueError: the folder is missing or has nothing usable, or `out` holds other files.
  """
  settings = settings or Settings()
  folder, out_dir = pathlib.Path(videos), pathlib.Path(out).absolute()
  _check_folders(folder, out_dir)
  files = captioned_files.find(folder)
  if not files:
    raise ValueError(f"--videos={folder} is empty")
  made_from = _fingerprint(folder, files, settings)
  dataset = datasets.standing(out_dir, made_from)
  if dataset is not None:
    lines = (out_dir / _REPORT).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return IngestResult(dataset=str(dataset), rows=rows, reused=True)

  with datasets.making(out_dir, made_from) as partial:
    spool = partial / "spool"
    spool.mkdir()
    rows = _read_files(files, spool, settings)
    _write_report(partial / _REPORT, rows)
    kept = [i for i, row in enumerate(rows) if row["status"] == "kept"]
    if not kept:
      raise ValueError(
        f"--videos={folder} has nothing usable\n{summary(rows)}\n"
        f"See {partial / _REPORT}"
      )
    splits = {
      split: functools.partial(_examples, files, numbers, spool, settings)
      for split, numbers in _split(files, kept, settings.test_fraction).items()
    }
    folder_clips.FolderClips(splits=splits, data_dir=partial).write()
    shutil.rmtree(spool)
  dataset = datasets.standing(out_dir, made_from)
  return IngestResult(dataset=str(dataset), rows=rows, reused=False)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
  """A table of the report: files and clips kept, files skipped by reason, warnings."""
  kept = [row for row in rows if row["status"] == "kept"]
  skipped = collections.Counter(
    row["reason"] for row in rows if row["status"] == "skipped"
  )
  warned = collections.Counter(code for row in rows for code in row["warnings"])
  lines = [f"{'kept':26}{len(kept):6}   ({sum(row['clips'] for row in kept)} clips)"]
  lines += [f"{'skipped: ' + code:26}{n:6}" for code, n in skipped.most_common()]
  lines += [f"{'warned: ' + code:26}{n:6}" for code, n in warned.most_common()]
  return "\n".join(lines)


def _check_folders(folder: pathlib.Path, out: pathlib.Path) -> None:
  if not folder.is_dir():
    raise ValueError(f"--videos={folder} is not a folder")
  inner, outer = out.resolve(), folder.resolve()
  if inner.is_relative_to(outer) or outer.is_relative_to(inner):
    raise ValueError(f"--out={out} and --videos={folder} must not hold one another")


def _fingerprint(
  folder: pathlib.Path, files: Sequence[CaptionedFile], settings: Settings
) -> dict[str, Any]:
  """Changes when a file, a caption or a setting does."""
  digest = hashlib.sha256()
  for file in files:
    stat = file.path.stat() if not file.problem else None
    size_and_time = (stat.st_size, stat.st_mtime_ns) if stat else ()
    described = (file.name, file.caption, file.problem, file.warnings, size_and_time)
    digest.update(repr(described).encode())
  return {
    "videos": str(folder.resolve()),
    "files": digest.hexdigest(),
    "settings": dataclasses.asdict(settings),
  }


def _read_files(
  files: Sequence[CaptionedFile], spool: pathlib.Path, settings: Settings
) -> list[dict[str, Any]]:
  """Clips of the i-th file go to spool/i/; returns the rows of the report."""
  rows = []
  with metrics.progress(len(files), desc="ingest", unit="file") as bar:
    for number, file in enumerate(files):
      row = {"file": file.name, "status": "skipped", "reason": file.problem,
             "detail": file.detail, "warnings": list(file.warnings)}  # fmt: skip
      if not file.problem:
        try:
          read = media.read(file.path, settings.limits)
        except media.MediaError as error:
          row |= {"reason": error.reason, "detail": error.detail}
        else:
          _spool(read.clips, spool / str(number))
          row |= _describe(read, file, settings)
      rows.append(row)
      bar.update()
  return rows


def _spool(clips: Sequence[np.ndarray], folder: pathlib.Path) -> None:
  folder.mkdir()
  for i, clip in enumerate(clips):
    np.save(folder / f"{i:04d}.npy", clip)


def _describe(
  read: media.Media, file: CaptionedFile, settings: Settings
) -> dict[str, Any]:
  """Of a file that is kept: sizes are [height, width]."""
  return {
    "status": "kept",
    "warnings": [*file.warnings, *read.warnings],
    "clips": len(read.clips),
    "frames": sum(len(clip) for clip in read.clips),
    "dropped_frames": read.dropped_frames,  # of the last window, too few for a clip
    "size": list(read.clips[0].shape[1:3]),
    "source_size": list(read.source_size),
    "fps": settings.limits.fps,
    "seconds": round(read.seconds, 3),  # of the source that were read
  }


def _write_report(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
  lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  path.write_text(lines, encoding="utf-8")


def _split(
  files: Sequence[CaptionedFile], kept: Sequence[int], test_fraction: float
) -> dict[str, list[int]]:
  """Numbers of the files of each split, by a hash of their names.

  A file stays on its side when others come and go, unless one side would be empty.
  """
  if len(kept) == 1:
    print(f"{files[kept[0]].name} is the only file: it is in train and in test")
    return {"train": list(kept), "test": list(kept)}

  def rank(number: int) -> float:
    digest = hashlib.sha256(files[number].name.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

  ranked = sorted(kept, key=rank)
  count = sum(rank(number) < test_fraction for number in ranked)
  count = min(max(count, 1), len(ranked) - 1)
  return {"train": sorted(ranked[count:]), "test": sorted(ranked[:count])}


def _examples(
  files: Sequence[CaptionedFile], numbers: Sequence[int], spool: pathlib.Path,
  settings: Settings,
) -> Iterator[dict[str, Any]]:  # fmt: skip
  for number in numbers:
    for i, path in enumerate(sorted((spool / str(number)).iterdir())):
      yield {
        "id": f"{files[number].name}#{i}",
        "video": np.load(path),
        "caption": files[number].caption,
        "fps": np.float32(settings.limits.fps),  # also of images, which have none
      }


def main() -> None:
  limits = media.Limits(
    max_pixels=_MAX_PIXELS.value, fps=_FPS.value, max_frames=_MAX_FRAMES.value
  )
  settings = Settings(limits=limits, test_fraction=_TEST_FRACTION.value)
  result = ingest(_VIDEOS.value, _OUT.value, settings=settings)
  if result.reused:
    print("made before from the same files: reused")
  print(summary(result.rows))
  print(result.dataset)


if __name__ == "__main__":
  _VIDEOS = flags.DEFINE_string("videos", None, "Folder of files and captions.")
  _OUT = flags.DEFINE_string("out", None, "Folder to make; the dataset is below it.")
  _MAX_PIXELS = flags.DEFINE_integer("max_pixels", 4096, "Of a frame: its area.")
  _FPS = flags.DEFINE_float("fps", 8.0, "Frames per second of the clips.")
  _MAX_FRAMES = flags.DEFINE_integer("max_frames", 17, "Of a clip; 1 + 4k.")
  _TEST_FRACTION = flags.DEFINE_float("test_fraction", 0.1, "Of the files; held out.")
  flags.mark_flags_as_required(["videos", "out"])
  cli.run(main)
