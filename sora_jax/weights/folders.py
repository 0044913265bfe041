"""Folders that appear whole or not at all, and the sha256 of every file in them.

  with folders.creating(out) as folder:   writes to OUT.partial, renamed at the end
    ...
  folders.write_manifest(folder)          manifest.json: {file: {sha256, bytes}}

Several processes share the work where there are several: each hashes its share of the
files, into a manifest-2-of-4.json of its own.

Used by: training/checkpoint.py, sora_jax/export/.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import math
import os
import pathlib
import random
import re
import shutil
import zlib
from collections.abc import Iterator

MANIFEST = "manifest.json"
_NAME = re.compile(r"manifest(-\d+-of-(\d+))?\.(json|partial)")
_THREADS = 8  # hashing and reading wait for each other otherwise
WHOLE = 0, 1  # the share of a process that is alone: its number, and of how many


@contextlib.contextmanager
def creating(out: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to write to, which becomes `out` when nothing went wrong.

  Raises:
    ValueError: `out` exists already.
  """
  out = pathlib.Path(out).absolute()
  if out.exists():
    raise ValueError(f"--out={out} exists already; remove it, or choose another")
  partial = out.with_name(out.name + ".partial")
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  try:
    yield partial
    partial.rename(out)
  except OSError as error:
    what = error.filename or out
    raise ValueError(f"could not write {what}: {error.strerror or error}") from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def write_whole(path: pathlib.Path, text: str) -> None:
  """Writes a file that is there whole, or as it was."""
  partial = path.with_suffix(".partial")
  partial.write_text(text)
  partial.rename(path)


def write_manifest(folder: pathlib.Path, share: tuple[int, int] = WHOLE) -> None:
  """The manifest of this process's share of the files under the folder."""
  number, count = share
  names = [name for name in _names(folder) if _owner(name, count) == number]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    digests = list(pool.map(lambda name: sha256(folder / name), names))
  files = {
    name: {"sha256": digest, "bytes": (folder / name).stat().st_size}
    for name, digest in zip(names, digests)
  }
  path = folder / (MANIFEST if count == 1 else f"manifest-{number + 1}-of-{count}.json")
  write_whole(path, json.dumps({"files": files}, indent=1))


def verify(
  folder: str | pathlib.Path, *, within: tuple[str, ...] = (),
  share: tuple[int, int] = WHOLE, sampled: float = 1.0,
) -> bool:  # fmt: skip
  """Checks the files against the manifest; False where there is none, or not all of it.

  Args:
    folder: what to check.
    within: only what is in these folders of it, if any are given.
    share: of this process, as for `write_manifest`; any other split will do.
    sampled: part of the files that are hashed, chosen anew each time; the others are
      there, and have their size.

  Raises:
    ValueError: a file is missing or changed; names it.
  """
  folder = pathlib.Path(folder)
  expected = _expected(folder)
  if not expected:
    return False
  names = sorted(
    name for name in expected if not within or name.partition("/")[0] in within
  )  # fmt: skip
  names = [name for name in names if _owner(name, share[1]) == share[0]]
  hashed = set(random.sample(names, math.ceil(sampled * len(names))))

  def check(name: str) -> None:
    file = folder / name
    if not _is_inside(file, folder):
      raise ValueError(f"{folder / MANIFEST} names {name[:80]!r}, not in its folder")
    if not os.path.isfile(file):  # or is no name that a file can have
      raise ValueError(f"{str(file)[:200]} is missing, and {MANIFEST} names it")
    size, digest = expected[name]
    changed = name in hashed and sha256(file) != digest
    if changed or file.stat().st_size != size:
      raise ValueError(
        f"{file} is not what was written (sha256 differs from {MANIFEST}): copy it again"
      )

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    # The largest first, so that all threads end together.
    for _ in pool.map(check, sorted(names, key=lambda name: -expected[name][0])):
      pass
  return True


def is_sealed(folder: pathlib.Path) -> bool:
  """Whether there are manifests of all of it; they are not read."""
  return bool(_manifests(folder))


def _expected(folder: pathlib.Path) -> dict[str, tuple[int, str]]:
  """{file: (bytes, sha256)} of all manifests together."""
  expected = {}
  for path in _manifests(folder):
    try:
      files = dict(json.loads(path.read_text())["files"])
      expected |= {name: (row["bytes"], row["sha256"]) for name, row in files.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
      raise ValueError(f"{path} is not a manifest: {error!r}") from error
  return expected


def _manifests(folder: pathlib.Path) -> list[pathlib.Path]:
  """The whole one, or those of all shares; none where one is missing."""
  if (folder / MANIFEST).is_file():
    return [folder / MANIFEST]
  parts = [part for part in folder.glob("manifest-*.json") if _NAME.match(part.name)]
  counts = {_NAME.match(part.name)[2] for part in parts}
  return parts if counts == {str(len(parts))} else []


def _is_inside(file: pathlib.Path, folder: pathlib.Path) -> bool:
  """Also where there are links in its path."""
  try:
    return file.resolve().is_relative_to(folder.resolve())
  except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte
    return False


def sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _owner(name: str, count: int) -> int:
  """Whose share a file is in: by its name, since two hosts may list a folder unlike."""
  return zlib.crc32(name.encode(errors="surrogateescape")) % count


def _names(folder: pathlib.Path) -> list[str]:
  files = (path for path in sorted(folder.rglob("*")) if path.is_file())
  names = (str(file.relative_to(folder)) for file in files)
  return [name for name in names if not _NAME.fullmatch(name)]
