"""What became of every file and every clip of an ingestion, in three forms.

  ingest_report.jsonl   a line for each file, with its clips
  clips.parquet         a row for each clip: kept or why not, and all measures
  report.html           what was kept and dropped, to look at (ingest_page.py)

Used by: jobs/ingest.py.
"""

import collections
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from data_pipelines import ingest_page
from data_pipelines import spool as spool_lib
from data_pipelines.captioned_files import CaptionedFile

PAGE = "report.html"
_FILES = "ingest_report.jsonl"
_CLIPS = "clips.parquet"


def write(
  folder: pathlib.Path, spool: pathlib.Path, files: Sequence[CaptionedFile],
  rows: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
  """All three; that of the files comes last, and appears whole."""
  clips = []
  for i, row in enumerate(rows):
    for j, clip in enumerate(row["all_clips"]):
      clips.append({
        **clip, "file": row["file"], "caption": files[i].caption, "fps": row["fps"],
        "kept": not clip["reason"], "duplicate_of": clip.get("duplicate_of", ""),
        "number": (i, j),
      })  # fmt: skip
  ingest_page.write(
    folder / PAGE, rows, clips, lambda clip: spool_lib.load(spool, *clip["number"])
  )
  columns = [{k: v for k, v in clip.items() if k != "number"} for clip in clips]
  table = pyarrow.Table.from_pylist(columns)
  pyarrow.parquet.write_table(table, folder / _CLIPS)
  lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  temporary = folder / f"{_FILES}.partial"
  temporary.write_text(lines, encoding="utf-8")
  temporary.replace(folder / _FILES)


def is_written(folder: pathlib.Path) -> bool:
  return (folder / _FILES).exists()


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of the files."""
  lines = (folder / _FILES).read_text(encoding="utf-8").split("\n")
  return [json.loads(line) for line in lines if line]


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
