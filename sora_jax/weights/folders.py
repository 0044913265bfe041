"""Folders that appear whole or not at all, and the sha256 of every file in them.

  with folders.creating(out) as folder:   writes to OUT.partial, renamed at the end
    ...
  folders.write_manifest(folder)          manifest.json: {file: {sha256, bytes}}

Used by: training/checkpoint.py, sora_jax/export/.
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterator

MANIFEST = "manifest.json"


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


def write_manifest(folder: pathlib.Path) -> None:
  """manifest.json, of all files under the folder."""
  files = {
    name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
    for name in _names(folder)
  }
  partial = folder / f"{MANIFEST}.partial"
  partial.write_text(json.dumps({"files": files}, indent=1))
  partial.rename(folder / MANIFEST)


def verify(folder: str | pathlib.Path, *, within: tuple[str, ...] = ()) -> bool:
  """Checks the files against the manifest; False where there is none.

  With `within`, those under these folders of it only.

  Raises:
    ValueError: a file is missing or changed; names it.
  """
  folder = pathlib.Path(folder)
  path = folder / MANIFEST
  if not path.is_file():
    return False
  try:
    files = dict(json.loads(path.read_text())["files"])
    expected = {name: (row["bytes"], row["sha256"]) for name, row in files.items()}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is not a manifest: {error!r}") from error
  for name, (size, digest) in expected.items():
    if within and name.partition("/")[0] not in within:
      continue
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
      raise ValueError(f"{path} names {name!r}, which is not in its folder")
    if not file.is_file():
      raise ValueError(f"{file} is missing, and {MANIFEST} names it")
    if file.stat().st_size != size or sha256(file) != digest:
      raise ValueError(
        f"{file} is not what was written (sha256 differs from {MANIFEST}): copy it again"
      )
  return True


def sha256(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _names(folder: pathlib.Path) -> list[str]:
  files = (path for path in sorted(folder.rglob("*")) if path.is_file())
  return [str(f.relative_to(folder)) for f in files if f.name != MANIFEST]
