"""Makes a dataset of clips from a user's videos and photos.

  python -m data_pipelines.jobs.ingest --videos=DIR --out=DIR

The folder has files of any format, also in folders below it, and their captions: in
manifest.jsonl, .csv or .parquet with the columns file and caption, or cat.txt beside
cat.mp4. Videos are cut into shots and the shots into clips; clips of nothing, and those
that were there before, are dropped. What cannot be used never stops the job, and every
file and clip is accounted for:

  OUT/folder_clips/1.0.0      TFDS dataset in ArrayRecord
  OUT/ingest_report.jsonl     a line for each file
  OUT/clips.parquet           a row for each clip: kept or why not, and all measures
  OUT/report.html             what was kept and dropped, to look at

Files are read in processes of their own, within bounds of time and memory. Clips of one
file are all in train or all in test. Started again after it was killed, the job goes on
where it was and ends with the same bytes; a finished dataset of the same files and
settings is reused.

Used by: users, before a codec is trained. Next: ../captioned_files.py, ../spool.py.
"""

import dataclasses
import hashlib
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from data_pipelines import (
  captioned_files,
  datasets,
  filters,
  ingest_report,
  isolated,
  shards,
)
from data_pipelines import limits as limits_lib
from data_pipelines import spool as spool_lib
from data_pipelines.builders import folder_clips
from data_pipelines.captioned_files import CaptionedFile
from sora_jax import cli
from sora_jax.training import metrics

_SHARD_BYTES = 1e9  # of frames, before compression


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What the clips look like, which are kept, and how many files are held out."""

  limits: limits_lib.Limits = dataclasses.field(default_factory=limits_lib.Limits)
  thresholds: filters.Thresholds = dataclasses.field(default_factory=filters.Thresholds)
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
  videos: str | os.PathLike, out: str | os.PathLike, *, settings: Settings | None = None,
  manifest: str | os.PathLike | None = None, workers: int = 0,
) -> IngestResult:  # fmt: skip
  """Reads each file of the folder `videos` once; the dataset is below `out`.

  With 0 workers, files are read in this process, without bounds on what one may cost.

  Raises:
    ValueError: the folder is missing or has nothing usable, or `out` holds other files.
  """
  settings = settings or Settings()
  folder, out_dir = pathlib.Path(videos), pathlib.Path(out).absolute()
  _check_folders(folder, out_dir)
  files = captioned_files.find(folder, manifest)
  if not files:
    raise ValueError(f"--videos={folder} is empty")
  made_from = _fingerprint(folder, files, settings)
  dataset = datasets.standing(out_dir, made_from)
  if dataset is not None:
    return IngestResult(dataset=str(dataset), rows=ingest_report.read(out_dir), reused=True)

  partial = datasets.continued(out_dir, made_from)
  spool = partial / "spool"
  if not _is_reported(partial):
    spool.mkdir(exist_ok=True)
    rows = _read_files(files, spool, settings, workers)
    filters.drop_duplicates(rows, settings.thresholds.duplicate_bits)
    ingest_report.write(partial, spool, files, rows)
  rows = ingest_report.read(partial)
  kept = [i for i, row in enumerate(rows) if row["status"] == "kept"]
  if not kept:
    raise ValueError(
      f"--videos={folder} has nothing usable\n{ingest_report.summary(rows)}\n"
      f"See {partial / ingest_report.PAGE}"
    )
  examples = {
    split: [(i, j) for i in numbers for j in _kept_clips(rows[i])]
    for split, numbers in _split(files, kept, settings.test_fraction).items()
  }
  dataset = _write_dataset(out_dir, made_from, examples, files, spool, settings)
  return IngestResult(dataset=str(dataset), rows=rows, reused=False)


def _is_reported(partial: pathlib.Path) -> bool:
  """Whether it is settled what to keep; a report of nothing settles nothing."""
  written = ingest_report.is_written(partial)
  return written and any(row["status"] == "kept" for row in ingest_report.read(partial))


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
    stat = os.stat(file.path) if not file.problem else None
    size_and_time = (stat.st_size, stat.st_mtime_ns) if stat else ()
    described = (file.name, file.caption, file.problem, file.warnings, size_and_time)
    digest.update(repr(described).encode())
  return {
    "videos": str(folder.resolve()),
    "files": digest.hexdigest(),
    "settings": dataclasses.asdict(settings),
  }


def _read_files(
  files: Sequence[CaptionedFile], spool: pathlib.Path, settings: Settings, workers: int
) -> list[dict[str, Any]]:
  """Clips of the i-th file go to spool/i/; returns the rows of the report."""
  rows = {i: spool_lib.read_row(spool, i) for i in range(len(files))}
  todo = [i for i, row in rows.items() if row is None]
  with metrics.progress(
    len(files), initial=len(files) - len(todo), desc="ingest", unit="file"
  ) as bar:
    calls = []
    for i in todo:
      if files[i].problem:
        rows[i] = spool_lib.skipped(files[i], files[i].problem, files[i].detail)
        bar.update()
      else:
        file = dataclasses.replace(files[i], caption="")  # of which nothing is read
        arguments = (i, file, str(spool), settings.limits, settings.thresholds)
        calls.append((i, arguments))
    if workers:
      # Some more time than the reader gives itself, which keeps what was read by then.
      bounds = isolated.Bounds(seconds=1.5 * settings.limits.timeout + 10)
      done = isolated.run(spool_lib.fill, calls, workers=workers, bounds=bounds)
    else:
      done = ((i, spool_lib.fill(*arguments)) for i, arguments in calls)
    for i, row in done:
      if isinstance(row, isolated.Lost):
        # One that crashed may have been killed by the machine, so it is not marked as done:
        # started again, the job tries it again.
        crashed = str(row) == "crashed"
        row = spool_lib.skipped(files[i], str(row), "its process was lost")
        if not crashed:
          spool_lib.write_row(spool, i, row)
      rows[i] = row
      bar.update()
  return [rows[i] for i in range(len(files))]


def _kept_clips(row: Mapping[str, Any]) -> list[int]:
  return [j for j, clip in enumerate(row["all_clips"]) if not clip["reason"]]


def _write_dataset(
  out: pathlib.Path, made_from: Any, examples: Mapping[str, list[tuple[int, int]]],
  files: Sequence[CaptionedFile], spool: pathlib.Path, settings: Settings,
) -> pathlib.Path:  # fmt: skip
  limits = settings.limits
  per_clip = 3 * limits.max_pixels * limits.max_frames
  plan = shards.plan(
    {split: len(numbers) for split, numbers in examples.items()},
    max(1, round(_SHARD_BYTES / per_clip)),
  )
  dataset = shards.ShardedDataset(out, folder_clips.FolderClips, made_from, plan)
  for shard in dataset.unfinished():
    dataset.write(
      shard,
      ({
        "id": f"{files[i].name}#{j}",
        "video": spool_lib.load(spool, i, j),
        "caption": files[i].caption,
        "fps": np.float32(limits.fps),  # also of images, which have none
      } for i, j in examples[shard.split][shard.start : shard.stop]),
    )  # fmt: skip
  shutil.rmtree(spool, ignore_errors=True)
  return dataset.finish()


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


def main() -> None:
  limits = limits_lib.Limits(
    max_pixels=_MAX_PIXELS.value, multiple=_MULTIPLE.value, fps=_FPS.value,
    max_frames=_MAX_FRAMES.value, max_clips=_MAX_CLIPS.value,
    max_seconds=_MAX_SECONDS.value,
  )  # fmt: skip
  thresholds = filters.Thresholds(
    min_brightness=_MIN_BRIGHTNESS.value, min_change=_MIN_CHANGE.value,
    min_motion=_MIN_MOTION.value, max_text=_MAX_TEXT.value,
    duplicate_bits=_DUPLICATE_BITS.value,
  )  # fmt: skip
  settings = Settings(
    limits=limits, thresholds=thresholds, test_fraction=_TEST_FRACTION.value
  )
  result = ingest(
    _VIDEOS.value, _OUT.value, settings=settings, manifest=_MANIFEST.value,
    workers=_WORKERS.value or os.cpu_count() or 1,
  )  # fmt: skip
  if result.reused:
    print("made before from the same files: reused")
  print(ingest_report.summary(result.rows))
  print(f"look at {pathlib.Path(_OUT.value) / ingest_report.PAGE}")
  print(result.dataset)


if __name__ == "__main__":
  _LIMITS, _THRESHOLDS = limits_lib.Limits(), filters.Thresholds()
  _VIDEOS = flags.DEFINE_string("videos", None, "Folder of files and captions.")
  _MANIFEST = flags.DEFINE_string(
    "manifest", None, "JSONL, CSV or Parquet with file and caption, if not in the folder."
  )
  _OUT = flags.DEFINE_string("out", None, "Folder to make; the dataset is below it.")
  _MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels", _LIMITS.max_pixels, "Of a frame: its area."
  )
  _MULTIPLE = flags.DEFINE_integer(
    "multiple", _LIMITS.multiple, "That sides are: the codec's compression, times a patch."
  )
  _FPS = flags.DEFINE_float("fps", _LIMITS.fps, "Frames per second of the clips.")
  _MAX_FRAMES = flags.DEFINE_integer(
    "max_frames", _LIMITS.max_frames, "Of a clip; 1 + 4k."
  )
  _MAX_CLIPS = flags.DEFINE_integer("max_clips", _LIMITS.max_clips, "Of a file.")
  _MAX_SECONDS = flags.DEFINE_float(
    "max_seconds", _LIMITS.max_seconds, "Of a file that are read."
  )
  _MIN_BRIGHTNESS = flags.DEFINE_float(
    "min_brightness", _THRESHOLDS.min_brightness, "Of a clip's bright parts, 0 to 1."
  )
  _MIN_CHANGE = flags.DEFINE_float(
    "min_change", _THRESHOLDS.min_change, "Of luma from frame to frame, 0 to 1."
  )
  _MIN_MOTION = flags.DEFINE_float(
    "min_motion", _THRESHOLDS.min_motion, "Frame widths per second; 0 keeps all."
  )
  _MAX_TEXT = flags.DEFINE_float(
    "max_text", _THRESHOLDS.max_text, "Share of the frame under text; 0 keeps all."
  )
  _DUPLICATE_BITS = flags.DEFINE_integer(
    "duplicate_bits", _THRESHOLDS.duplicate_bits, "Of 64 that may differ; 0 keeps all."
  )
  _TEST_FRACTION = flags.DEFINE_float("test_fraction", 0.1, "Of the files; held out.")
  _WORKERS = flags.DEFINE_integer("workers", None, "Processes; by default one per core.")
  flags.mark_flags_as_required(["videos", "out"])
  cli.run(main)
