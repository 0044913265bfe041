"""TFDS datasets in ArrayRecord, written whole or not at all; TensorFlow is not needed.

A dataset is made in a folder of another name, and renamed when it is complete. Beside
it stands made_from.json, which tells what it was made from: the same again is reused.

  OUT/NAME/VERSION/...     the dataset
  OUT/made_from.json

Used by: the builders and the jobs that make datasets.
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

_MADE_FROM = "made_from.json"
_FEATURES = "tensorflow_datasets.core.features."
Example = dict[str, Any]


class Generated(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder that writes what its generators yield, in their order.

  Subclasses set DESCRIPTION and `features`.
  """

  VERSION = tfds.core.Version("1.0.0")
  DESCRIPTION = ""

  def __init__(
    self, *, splits: Mapping[str, Callable[[], Iterator[Example]]], data_dir: Any
  ):
    self._splits = splits
    super().__init__(file_format="array_record", data_dir=str(data_dir))

  @staticmethod
  def features() -> dict[str, Any]:
    raise NotImplementedError

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.DESCRIPTION,
      features=tfds.features.FeaturesDict(self.features()),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {name: self._generate_examples(make()) for name, make in self._splits.items()}

  def _generate_examples(self, examples: Iterator[Example]):
    yield from enumerate(examples)

  def write(self) -> None:
    """Writes the dataset, without TFDS's own lines and bars."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
      self.download_and_prepare()
    # Made for downloads, of which there are none.
    shutil.rmtree(pathlib.Path(self._data_dir_root) / "downloads", ignore_errors=True)


def standing(out: str | pathlib.Path, made_from: Any) -> pathlib.Path | None:
  """The versioned folder of the dataset at `out`, if it was made from just this."""
  mark = pathlib.Path(out) / _MADE_FROM
  if not mark.exists() or json.loads(mark.read_text()) != _plain(made_from):
    return None
  return next((p.parent for p in pathlib.Path(out).glob("*/*/features.json")), None)


def check_description(folder: str | pathlib.Path) -> None:
  """What TFDS would do on a description's word: import classes, open files elsewhere.

  Raises:
    ValueError: features.json names classes that are not of TFDS, or dataset_info.json
      names that lead out of the folder; or one of them is no JSON.
  """
  folder = pathlib.Path(folder)
  for key, value in _values(folder / "features.json"):
    if key == "pythonClassName" and not str(value).startswith(_FEATURES):
      raise ValueError(
        f"{folder / 'features.json'} names the class {value!r:.80}, which is not of TFDS"
      )
  info = folder / "dataset_info.json"
  for key, value in _values(info) if info.exists() else ():
    if key in ("name", "filepathTemplate") and set("/\\\0") & set(str(value)):
      raise ValueError(f"{info}: {key} is {value!r:.80}, which leads out of the folder")


def _values(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """Every key of every object in a JSON file, with its value."""
  try:
    left = [json.loads(path.read_text(encoding="utf-8"))]
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not JSON: {error}") from error
  while left:
    node = left.pop()
    if isinstance(node, dict):
      yield from node.items()
      left += node.values()
    elif isinstance(node, list):
      left += node


@contextlib.contextmanager
def making(out: str | pathlib.Path, made_from: Any) -> Iterator[pathlib.Path]:
  """A new folder to make the dataset in; it becomes `out` when the block succeeds.

  Raises:
    ValueError: `out` holds something that was not made here, and would be lost.
  """
  out = pathlib.Path(out).absolute()
  shutil.rmtree(_partial_folder(out), ignore_errors=True)
  partial = continued(out, made_from)
  yield partial
  publish(partial, out)


def continued(out: pathlib.Path, made_from: Any) -> pathlib.Path:
  """The folder in which a dataset is made, with what stands there of the same making.

  Raises:
    ValueError: `out` holds something that was not made here, and would be lost.
  """
  if out.exists() and not out.is_dir():
    raise ValueError(f"--out={out} is not a folder")
  others = sorted(path.name for path in out.iterdir()) if out.exists() else []
  if others and _MADE_FROM not in others:
    raise ValueError(f"--out={out} holds other files ({others[0]}); name a new folder")
  partial = _partial_folder(out)
  mark = partial / _MADE_FROM
  if partial.exists() and (
    not mark.exists() or json.loads(mark.read_text()) != _plain(made_from)
  ):
    shutil.rmtree(partial)
  partial.mkdir(parents=True, exist_ok=True)
  if not mark.exists():
    # Appears whole, or an interrupted start could not be told from a wrong one.
    temporary = mark.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(made_from, indent=1))
    temporary.replace(mark)
  return partial


def publish(partial: pathlib.Path, out: pathlib.Path) -> None:
  """Gives a finished dataset its name; nothing where another process just did."""
  if not partial.exists():
    return
  # The old one is moved away first: a name is never on half a dataset.
  old = out.with_name(out.name + ".old")
  shutil.rmtree(old, ignore_errors=True)
  if out.exists():
    out.rename(old)
  with contextlib.suppress(FileNotFoundError):
    partial.rename(out)
  shutil.rmtree(old, ignore_errors=True)


def _partial_folder(out: pathlib.Path) -> pathlib.Path:
  return out.with_name(out.name + ".partial")


def _plain(value: Any) -> Any:
  """As JSON gives it back: tuples are lists, keys are strings."""
  return json.loads(json.dumps(value))
