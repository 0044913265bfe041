"""Finds the files of a user's folder, with their captions or with what is wrong.

A caption stands in the line {"file": ..., "caption": ...} of manifest.jsonl in the
folder, in a row of manifest.csv or manifest.parquet, or in a .txt file beside the file,
of the same stem. Nothing is left out: a file
without a caption, and a line without a file, are in the list as well.

Used by: jobs/ingest.py.
"""

import csv
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionedFile:
  """A file to read, or where there is a `problem`, to skip."""

  path: pathlib.Path
  name: str  # relative to the folder; printable, whatever the bytes of the path are
  caption: str = ""
  problem: str = ""  # no_caption, bad_caption, missing_file, outside_folder, bad_line
  detail: str = ""  # of the problem
  warnings: tuple[str, ...] = ()


def find(
  folder: pathlib.Path, manifest: str | os.PathLike | None = None
) -> list[CaptionedFile]:
  """All files at any depth below `folder`, and the manifest's bad lines, by name.

  The manifest and the .txt files that are captions are not in the list. Links that lead
  out of the folder are not followed.

  Another `manifest` may be given; its file names are relative to `folder` as well.

  Raises:
    ValueError: the manifest cannot be read, or there is more than one.
  """
  listing = _find_manifest(folder, manifest)
  entries, found = _read_manifest(listing)
  paths = _walk(folder)
  stems = {path.with_suffix("") for path in paths if path.suffix != ".txt"}
  for path in paths:
    relative = str(path.relative_to(folder))
    is_caption = path.suffix == ".txt" and path.with_suffix("") in stems
    if path == listing or (is_caption and relative not in entries):
      continue
    found.append(_describe(folder, relative, entries.pop(relative, {})))
  # What is left was not found by walking.
  found += [_describe(folder, name, entry) for name, entry in entries.items()]
  return sorted(found, key=lambda file: file.name)


def _walk(folder: pathlib.Path) -> list[pathlib.Path]:
  """Every file; a link to a folder counts as one, and is not followed."""
  paths = []
  for parent, folders, files in os.walk(folder):
    links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
    paths += [pathlib.Path(parent, name) for name in files + links]
  return paths


def _find_manifest(
  folder: pathlib.Path, given: str | os.PathLike | None
) -> pathlib.Path | None:
  """The one that was given, or the one in the folder."""
  if given is not None:
    path = pathlib.Path(given)
    if not path.is_file() or path.suffix not in _READERS:
      raise ValueError(f"--manifest={given} is not a {', '.join(_READERS)} file")
    return path
  standing = [folder / f"manifest{suffix}" for suffix in _READERS]
  standing = [path for path in standing if path.exists()]
  if len(standing) > 1:
    names = " and ".join(path.name for path in standing)
    raise ValueError(f"{folder} has {names}; name one of them with --manifest")
  return standing[0] if standing else None


def _read_manifest(
  path: pathlib.Path | None,
) -> tuple[dict[str, dict[str, Any]], list[CaptionedFile]]:
  """The manifest's entries by normalized file name, and its bad lines."""
  entries, bad_lines = {}, []
  if path is None:
    return entries, bad_lines
  for number, entry in _READERS[path.suffix](path):
    try:
      if isinstance(entry, Exception):
        raise entry
      name = os.path.normpath(entry["file"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
      bad_lines.append(
        CaptionedFile(
          path=path, name=f"{path.name}:{number}", problem="bad_line", detail=repr(error)
        )
      )
      continue
    repeated = {"warnings": ("listed_twice",)} if name in entries else {}
    entries[name] = {**entry, "warnings": (), **repeated}  # the last one counts
  return entries, bad_lines


def _read_text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not text in UTF-8: {error}") from error


def _read_jsonl(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
  """(line, entry or what is wrong with it)."""
  for number, line in enumerate(_read_text(path).split("\n"), 1):
    if line.strip():
      try:
        yield number, json.loads(line)
      except (ValueError, RecursionError) as error:
        yield number, error


def _read_csv(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
  """With a header that has `file` and `caption`."""
  reader = csv.DictReader(io.StringIO(_read_text(path)))
  if "file" not in (reader.fieldnames or ()):
    raise ValueError(f"{path} has no column file, only {reader.fieldnames}")
  for entry in reader:
    yield reader.line_num, entry


def _read_parquet(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
  """With columns `file` and `caption`; others are not read."""
  try:
    file = pyarrow.parquet.ParquetFile(path)
    columns = [name for name in ("file", "caption") if name in file.schema_arrow.names]
    if "file" not in columns:
      raise ValueError(f"{path} has no column file, only {file.schema_arrow.names}")
    for batch in file.iter_batches(columns=columns):
      yield from enumerate(batch.to_pylist(), 1)
  except pyarrow.ArrowException as error:
    raise ValueError(f"{path} is not a Parquet file: {error}") from error


_READERS = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}


def _describe(
  folder: pathlib.Path, relative: str, entry: dict[str, Any]
) -> CaptionedFile:
  path = folder / relative
  caption, problem = entry.get("caption"), ""
  caption = caption.strip() if isinstance(caption, str) else ""
  if not _is_inside(folder, relative):
    problem = "outside_folder"
  elif not path.exists():
    problem = "missing_file"
  elif not caption:
    caption, problem = _read_sidecar(path)
  return CaptionedFile(
    path=path, name=_printable(relative), caption=_printable(caption), problem=problem,
    warnings=tuple(entry.get("warnings", ())),
  )  # fmt: skip


def _is_inside(folder: pathlib.Path, relative: str) -> bool:
  """Whether the file is below the folder, also where there are links in its path."""
  if os.path.isabs(relative):
    return False
  try:
    return (folder / relative).resolve().is_relative_to(folder.resolve())
  except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte
    return False


def _read_sidecar(path: pathlib.Path) -> tuple[str, str]:
  """(caption, problem) of the .txt beside a file."""
  sidecar = path.with_suffix(".txt")
  if sidecar == path or not sidecar.is_file():
    return "", "no_caption"
  try:
    caption = sidecar.read_text(encoding="utf-8-sig").strip()
  except UnicodeDecodeError:
    return "", "bad_caption"
  return caption, "" if caption else "no_caption"


def _printable(text: str) -> str:
  """Valid Unicode, also of a file name or a JSON string that is not."""
  return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
