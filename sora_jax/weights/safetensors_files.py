"""Safetensors: one file or several with an index, as diffusers and transformers lay them.

  DIR/NAME.safetensors
  DIR/NAME-00001-of-00003.safetensors ... and DIR/NAME.safetensors.index.json

Reading is the library's (mapped files, slices), after the header was found to be in
order. Writing is ours, because the library wants a whole file's arrays in memory: the
format is 8 bytes of header length, a JSON header, and the arrays one after another
(https://github.com/huggingface/safetensors).

Used by: sora_jax/export/, vae/wan_weights.py, text/pretrained.py.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable

import ml_dtypes
import numpy as np
import safetensors

from sora_jax.weights import tensors
from sora_jax.weights.tensors import Tensor, Tensors

_DTYPES = {
  "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
  "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
  "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
  "U32": np.uint32, "BOOL": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PIECE = 256 << 20  # bytes that are read and written at once
_LARGEST_HEADER = 16 << 20  # bytes; some hundred thousand tensors
_MOST_DIMS = 32


def read(path: str | pathlib.Path) -> dict[str, Tensor]:
  """The tensors of a file, or of all files of a folder.

  Raises:
    ValueError: nothing there, a pickle, a damaged file, or one the index misses; names
      it.
  """
  path = pathlib.Path(path)
  if path.suffix in _PICKLES:
    raise ValueError(
      f"{path} is a pickle, which can run any code when it is read: only safetensors "
      "are taken"
    )
  found: dict[str, Tensor] = {}
  for file in files(path):
    opened = _open(file)
    for name in list(opened.keys()):
      if name in found:
        raise ValueError(f"{path}: tensor {name!r} stands in two files")
      found[name] = _tensor(opened, name)
  return found


def files(path: pathlib.Path) -> list[pathlib.Path]:
  """The file itself, or those of a folder.

  Raises:
    ValueError: there are none, or the index names others.
  """
  if path.is_file():
    return [path]
  indices = sorted(path.glob("*.safetensors.index.json"))
  if len(indices) > 1:
    raise ValueError(f"{path} has {len(indices)} index files: name one model's folder")
  if indices:
    try:
      names = set(json.loads(indices[0].read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
      raise ValueError(f"{indices[0]} is not an index of safetensors: {error!r}") from error
    outside = [name for name in names if pathlib.Path(str(name)).name != name]
    if outside:
      raise ValueError(
        f"{indices[0]} names {outside[0]!r:.80}, which is not in its folder"
      )
    found = sorted(path / name for name in names)
  else:
    found = sorted(path.glob("*.safetensors")) if path.is_dir() else []
  missing = [file for file in found if not os.path.isfile(file)]  # or no name for a file
  if missing:
    raise ValueError(f"{indices[0]} names {missing[0].name:.80}, which is not there")
  if not found:
    pickles = [f.name for f in path.glob("*") if f.suffix in _PICKLES]
    raise ValueError(
      f"{path} has no safetensors"
      + (f", only pickles ({pickles[0]}), which are not read: they can run any code"
         if pickles else "")
    )  # fmt: skip
  return found


def check(path: str | pathlib.Path) -> None:
  """Raises ValueError where `read` would, for files that somebody else will read."""
  for file in files(pathlib.Path(path)):
    _open(file)


def _open(file: pathlib.Path):
  try:
    _check_header(file)
    return safetensors.safe_open(str(file), framework="numpy").__enter__()
  except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
    raise ValueError(f"{file} is damaged, or not safetensors: {error}") from error


def _check_header(file: pathlib.Path) -> None:
  """Reads no more than the header, and believes none of it.

  Raises:
    ValueError: it is too large, no JSON, or tells of tensors that the file cannot hold.
  """
  with file.open("rb") as opened:
    length = int.from_bytes(opened.read(8), "little")
    room = file.stat().st_size - 8 - length  # for the tensors
    if length > _LARGEST_HEADER or room < 0:
      raise ValueError(
        f"header too large ({length} bytes in a file of {file.stat().st_size}; the most "
        f"are {_LARGEST_HEADER})"
      )
    header = json.loads(opened.read(length), object_pairs_hook=_without_repeats)
  if not isinstance(header, dict):
    raise ValueError("the header is not a JSON object")
  header.pop("__metadata__", None)
  end = 0
  for start, stop, name in sorted(_place(name, entry) for name, entry in header.items()):
    if start != end:
      raise ValueError(f"tensor {name[:80]!r} begins at byte {start}, and must at {end}")
    end = stop
  if end != room:
    raise ValueError(f"its tensors have {end} bytes, and the file has {room} for them")


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
  found: dict[str, object] = {}
  for name, entry in pairs:
    if name in found:
      raise ValueError(f"the name {name[:80]!r} stands twice in the header")
    found[name] = entry
  return found


def _place(name: str, entry: object) -> tuple[int, int, str]:
  """(first byte, the byte after the last, name) of a tensor in the header."""
  try:
    dtype, shape = entry["dtype"], entry["shape"]
    start, stop = entry["data_offsets"]
    numbers = [*shape, start, stop]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"tensor {name[:80]!r} lacks dtype, shape or data_offsets") from error
  if not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
    raise ValueError(f"tensor {name[:80]!r} has a shape or offsets that are no sizes")
  if len(shape) > _MOST_DIMS:
    raise ValueError(f"tensor {name[:80]!r} has {len(shape)} dims")
  if not isinstance(dtype, str) or dtype not in _DTYPES:
    raise ValueError(f"tensor {name[:80]!r} is {dtype!r:.80}, which is not read")
  needed = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
  if stop - start != needed:
    raise ValueError(
      f"tensor {name[:80]!r} of shape {list(shape)} has {stop - start} bytes, not {needed}"
    )
  return start, stop, name


def _tensor(opened, name: str) -> Tensor:
  part = opened.get_slice(name)
  shape = tuple(part.get_shape())

  def read(box: tensors.Box) -> np.ndarray:
    if not shape or 0 in shape:  # of which the library takes no slices
      return np.asarray(opened.get_tensor(name)[box])
    return part[box]

  return Tensor(shape, np.dtype(_DTYPES[part.get_dtype()]), read)


def write(
  folder: pathlib.Path, named: Tensors, *, stem: str, shard_bytes: int = 5 << 30,
  progress: Callable[[int], None] = lambda count: None,
) -> list[str]:  # fmt: skip
  """Writes tensors under `folder`, piece by piece; returns the names of the files.

  Args:
    folder: exists.
    named: in the order in which they shall stand.
    stem: of the files' names, such as "diffusion_pytorch_model".
    shard_bytes: a file ends before it passes this, where it has more than one tensor.
    progress: called with the bytes of each tensor once it is written.
  """
  files = _shards(named, shard_bytes)
  names, places = [], {}
  for number, shard in enumerate(files, 1):
    counted = f"-{number:05d}-of-{len(files):05d}" if len(files) > 1 else ""
    names.append(f"{stem}{counted}.safetensors")
    places |= dict.fromkeys(shard, names[-1])
    _write_file(folder / names[-1], {name: named[name] for name in shard}, progress)
  if len(files) > 1:
    total = sum(tensor.nbytes for tensor in named.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    names.append(f"{stem}.safetensors.index.json")
    (folder / names[-1]).write_text(json.dumps(index, indent=1))
  return names


def _shards(named: Tensors, shard_bytes: int) -> list[list[str]]:
  files: list[list[str]] = [[]]
  size = 0
  for name, tensor in named.items():
    if files[-1] and size + tensor.nbytes > shard_bytes:
      files.append([])
      size = 0
    files[-1].append(name)
    size += tensor.nbytes
  return files


def _write_file(path: pathlib.Path, named: Tensors, progress: Callable) -> None:
  # Wider dtypes first, so that every array is aligned to its own items.
  order = sorted(named, key=lambda name: -named[name].dtype.itemsize)
  header, offset = {"__metadata__": {"format": "pt"}}, 0
  for name in order:
    tensor = named[name]
    if tensor.dtype not in _NAMES:
      raise ValueError(f"tensor {name!r}: safetensors have no {tensor.dtype}")
    end = offset + tensor.nbytes
    header[name] = {
      "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape),
      "data_offsets": [offset, end],
    }  # fmt: skip
    offset = end
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
      for box in _pieces(named[name]):
        # As bytes, because not every dtype here is one that Python's buffers know.
        file.write(np.ascontiguousarray(named[name].read(box)).reshape(-1).view(np.uint8))
      progress(named[name].nbytes)


def _pieces(tensor: Tensor) -> list[tensors.Box]:
  """Boxes along the first dim, in order, of about `_PIECE` bytes each."""
  box = tensors.whole(tensor.shape)
  if not tensor.shape or tensor.nbytes <= _PIECE:
    return [box]
  rows = max(1, _PIECE * tensor.shape[0] // tensor.nbytes)
  return [
    (slice(start, min(start + rows, tensor.shape[0])), *box[1:])
    for start in range(0, tensor.shape[0], rows)
  ]
