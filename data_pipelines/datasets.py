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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

_MADE_FROM = "made_from.json"
# Of features.json: the classes, and the field in which each has its content.
_FEATURES = {
  f"tensorflow_datasets.core.features.{name}": kind
  for name, kind in (
    ("features_dict.FeaturesDict", "featuresDict"), ("tensor_feature.Tensor", "tensor"),
    ("scalar.Scalar", "tensor"), ("text_feature.Text", "text"),
  )
}  # fmt: skip
# Of dataset_info.json.
_INFO = ("name", "description", "version", "citation", "location", "downloadSize",
         "splits", "moduleName", "disableShuffling", "fileFormat")  # fmt: skip
_SPLIT = ("name", "shardLengths", "numBytes", "filepathTemplate")
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

  TFDS takes more than it writes: other spellings of the same fields, older forms of them
  and JSON within strings. So what ours do not have is refused, whatever it would do.

  Raises:
    ValueError: features.json has other classes or fields than our datasets,
      dataset_info.json has other fields or names that lead out of the folder; or one of
      them is no JSON.
  """
  path = pathlib.Path(folder, "features.json")
  left = [_read_json(path)]
  while left:
    feature = left.pop()
    name = feature.get("pythonClassName") if isinstance(feature, dict) else feature
    kind = _FEATURES.get(str(name))
    if kind is None:
      raise ValueError(f"{path} names the class {name!r:.80}, not one of {[*_FEATURES]}")
    _check_fields(path, feature, ("pythonClassName", kind))
    if kind == "featuresDict":
      found = _check_fields(path, feature.get(kind, {}), ("features",)).get("features", {})
      for key in _check_fields(path, found, None):
        _check_name(path, "a feature", key)
      left += found.values()
  path = path.with_name("dataset_info.json")
  info = _check_fields(path, _read_json(path) if path.exists() else {}, _INFO)
  splits = info.get("splits", [])
  for part in [info, *(splits if isinstance(splits, list) else [splits])]:
    _check_fields(path, part, _INFO if part is info else _SPLIT)
    for key in ("name", "fileFormat", "filepathTemplate"):
      _check_name(path, key, part.get(key, ""))


def _read_json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not JSON: {error}") from error


def _check_fields(path: pathlib.Path, node: Any, known: Sequence[str] | None) -> dict:
  """The node itself, an object with only these fields; with any, where it is None."""
  if not isinstance(node, dict):
    raise ValueError(f"{path} has {node!r:.80} in place of an object")
  unknown = [key for key in node if known is not None and key not in known]
  if unknown:
    raise ValueError(
      f"{path} has the field {unknown[0]!r:.80}, which no dataset of ours has: only "
      f"{', '.join(known)}"
    )
  return node


def _check_name(path: pathlib.Path, what: str, name: Any) -> None:
  if set("/\\\0") & set(str(name)):
    raise ValueError(f"{path}: {what} is {name!r:.80}, which leads out of the folder")


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
