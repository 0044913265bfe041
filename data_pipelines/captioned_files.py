"""Finds the files of a user's folder, with their captions or with what is wrong.

A caption stands in the line {"file": ..., "caption": ...} of manifest.jsonl in the
folder, in a row of manifest.csv or manifest.parquet, or in a .txt file beside the file,
of the same stem. Nothing is left out: a file without a caption, and a line without a file,
are in the list as well.

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

_LONGEST = 100_000  # characters of a caption
_MOST = 1 << 30  # characters of all rows of a Parquet file, which may say one text often
_ROWS = 256  # of a Parquet file, read at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionedFile:
  """A file to read, or where there is a `problem`, to skip."""

  path: str
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
    ValueError: the manifest cannot be read, leads out of the folder, or there is more
      than one.
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
  standing = [path for path in standing if path.is_file()]
  if len(standing) > 1:
    names = " and ".join(path.name for path in standing)
    raise ValueError(f"{folder} has {names}; name one of them with --manifest")
  if standing and not _is_inside(folder, standing[0].name):
    raise ValueError(
      f"{standing[0]} is a link out of its folder; if it is yours, give it as --manifest"
    )
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
          path=str(path), name=f"{path.name}:{number}", problem="bad_line",
          detail=printable(repr(error)),
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
  try:
    names = reader.fieldnames or ()
  except csv.Error as error:
    raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
  if "file" not in names:
    raise ValueError(f"{path} has no column file, only {names}")
  while True:
    try:
      entry: Any = next(reader)
    except StopIteration:
      return
    except csv.Error as error:  # the reader goes on with the next line
      entry = ValueError(str(error))
    yield reader.reader.line_num, entry  # its own is of the last good one


def _read_parquet(path: pathlib.Path) -> Iterator[tuple[int, Any]]:
  """With columns `file` and `caption`; others are not read."""
  number = length = 0
  try:
    schema = pyarrow.parquet.read_schema(path)
    columns = [name for name in ("file", "caption") if name in schema.names]
    if "file" not in columns:
      raise ValueError(f"has no column file, only {schema.names}")
    texts = [name for name in columns if pyarrow.types.is_string(schema.field(name).type)]
    file = pyarrow.parquet.ParquetFile(path, read_dictionary=texts)
    for batch in file.iter_batches(_ROWS, columns=columns):
      values = [_values(batch[name]) for name in columns]
      for row in zip(*values):
        number += 1
        length += sum(len(value) for value in row if isinstance(value, str))
        if length > _MOST:
          raise ValueError(f"holds more than {_MOST:,} characters: split it up")
        yield number, dict(zip(columns, row))
  except (pyarrow.ArrowException, OSError) as error:
    reason = " ".join(str(error).split())[:200]
    raise ValueError(f"{path} is not a Parquet file: {reason}") from error
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _values(column: pyarrow.Array) -> list[Any]:
  """Of a column; what is one text in the file is one in memory."""
  if not isinstance(column, pyarrow.DictionaryArray):
    return column.to_pylist()
  texts = column.dictionary.to_pylist()
  return [None if i is None else texts[i] for i in column.indices.to_pylist()]


_READERS = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}


def _describe(
  folder: pathlib.Path, relative: str, entry: dict[str, Any]
) -> CaptionedFile:
  path = folder / relative
  caption, problem, detail = entry.get("caption"), "", ""
  caption = caption.strip() if isinstance(caption, str) else ""
  if not _is_inside(folder, relative):
    problem = "outside_folder"
  elif not os.path.exists(path):  # also of a name that is too long to be one
    problem = "missing_file"
  elif not caption:
    caption, problem = _read_sidecar(folder, path)
  if len(caption) > _LONGEST and not problem:
    problem, detail = "bad_caption", f"longer than {_LONGEST:,} characters"
  return CaptionedFile(
    path=str(path), name=printable(relative), caption=printable(caption[:_LONGEST]),
    problem=problem, detail=detail, warnings=tuple(entry.get("warnings", ())),
  )  # fmt: skip


def _is_inside(folder: pathlib.Path, relative: str) -> bool:
  """Whether the file is below the folder, also where there are links in its path."""
  if os.path.isabs(relative):
    return False
  try:
    return folder.resolve() in (folder / relative).resolve().parents
  except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte
    return False


def _read_sidecar(folder: pathlib.Path, path: pathlib.Path) -> tuple[str, str]:
  """(caption, problem) of the .txt beside a file."""
  sidecar = path.with_suffix(".txt")
  if sidecar == path or not sidecar.is_file():
    return "", "no_caption"
  inside = _is_inside(folder, os.path.relpath(sidecar, folder))
  if not inside or sidecar.stat().st_size > 4 * _LONGEST:
    return "", "bad_caption"
  try:
    caption = sidecar.read_text(encoding="utf-8-sig").strip()
  except UnicodeDecodeError:
    return "", "bad_caption"
  return caption, "" if caption else "no_caption"


def printable(text: str) -> str:
  """Valid Unicode, also of a file name or a JSON string that is not."""
  return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
