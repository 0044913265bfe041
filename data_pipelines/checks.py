"""What makes a record unusable: each value is returned as it is used, or refused.

  unreadable      its shard or its bytes are damaged (found where it is read: records.py)
  missing_field   it lacks a field that is needed
  wrong_dtype     a field is of another type
  wrong_shape     not [T, H, W, C] with the C of the other records, empty, not in patches
  not_finite      NaN or infinity among the latents, the embeddings, or as frame rate
  empty_caption   nothing but blanks (unless the config says that such clips are wanted)
  bad_caption     not UTF-8, or absurdly long
  bad_fps         not above 0, or absurdly high
  too_large       it says that it becomes more than a machine should hold
  too_long        more tokens than a row (only where the config says to skip those)

Shapes: T, H, W latents or pixels; C channels; m tokens of a caption, D values each.
Used by: data_pipelines/records.py, loader.py, crops.py, jobs/encode_latents.py.
"""

from typing import Any

import numpy as np

TOO_LONG = "too_long"
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_MOST_CAPTION = 1_000_000  # bytes
_MOST_FPS = 1000.0


class Unusable(Exception):
  """A record that is to be left out, with a short code and what is wrong."""

  def __init__(self, reason: str, detail: str):
    super().__init__(f"{reason}: {detail}")
    self.reason, self.detail = reason, detail


def latents(value: Any, patch: tuple[int, int, int]) -> np.ndarray:
  """float32 [T, H, W, C]."""
  _array("latents", value, _FLOATS, 4)
  if any(n % p for n, p in zip(value.shape, patch)):
    raise Unusable(
      "wrong_shape", f"latents {value.shape} do not divide into patches of {patch}"
    )
  return _finite("latents", np.asarray(value, np.float32))


def embeddings(value: Any, most: int) -> np.ndarray:
  """[m, D] as stored; only the first `most`, which are used, need be finite."""
  _array("text", value, _FLOATS, 2)
  _finite("text", value[:most])
  return value


def video(value: Any) -> np.ndarray:
  """uint8 [T, H, W, 3]."""
  _array("video", value, ("uint8",), 4)
  if value.shape[-1] != 3:
    raise Unusable("wrong_shape", f"video {value.shape} has no 3 channels")
  return value


def caption(value: Any, *, may_be_empty: bool) -> str:
  """The text of a caption."""
  _present("caption", value)
  if not isinstance(value, bytes):
    raise Unusable("wrong_dtype", f"caption is {type(value).__name__}, not text")
  if len(value) > _MOST_CAPTION:
    raise Unusable("bad_caption", f"the caption has {len(value):,} bytes")
  try:
    text = value.decode()
  except UnicodeDecodeError as error:
    raise Unusable("bad_caption", f"the caption is not UTF-8: {error}") from error
  if not text.strip() and not may_be_empty:
    raise Unusable("empty_caption", "the caption is empty")
  return text


def fps(value: Any) -> float:
  """Frames per second."""
  _present("fps", value)
  if not isinstance(value, int | float | np.number):
    raise Unusable("wrong_dtype", f"fps is {type(value).__name__}, not a number")
  if not np.isfinite(value):
    raise Unusable("not_finite", f"fps is {value}")
  if not 0.0 < value <= _MOST_FPS:
    raise Unusable("bad_fps", f"fps is {value}, not above 0 and up to {_MOST_FPS:g}")
  return float(value)


def _present(name: str, value: Any) -> None:
  if value is None:
    raise Unusable("missing_field", f"no {name}")


def _array(name: str, value: Any, dtypes: tuple[str, ...], dims: int) -> None:
  _present(name, value)
  if not isinstance(value, np.ndarray):
    raise Unusable("wrong_dtype", f"{name} is {type(value).__name__}, not an array")
  if value.dtype.name not in dtypes:
    raise Unusable("wrong_dtype", f"{name} is {value.dtype}, not {' or '.join(dtypes)}")
  if value.ndim != dims:
    raise Unusable("wrong_shape", f"{name} {value.shape} has not {dims} dims")
  if value.size == 0:
    raise Unusable("wrong_shape", f"{name} {value.shape} has no values")


def _finite(name: str, value: np.ndarray) -> np.ndarray:
  # By the bits of bfloat16: its own isfinite takes five times as long.
  if value.dtype.name == "bfloat16":
    finite = (np.ascontiguousarray(value).view(np.uint16) & 0x7F80) != 0x7F80
  else:
    finite = np.isfinite(value)
  if not finite.all():
    count = finite.size - np.count_nonzero(finite)
    raise Unusable("not_finite", f"{count} of {finite.size} values of {name}")
  return value
