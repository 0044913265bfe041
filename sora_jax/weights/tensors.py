"""Tensors that are not in memory: shape, dtype, and a way to read any box of them.

A conversion is a view: a `Tensor` whose `read` asks another one for the part it needs.
So weights go from one file to another, or into sharded arrays, a piece at a time.

Used by: safetensors_files.py, orbax_files.py, models/wan_weights.py,
sora_jax/export/.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Box = tuple[slice, ...]  # one slice per dim, without steps


@dataclasses.dataclass(frozen=True)
class Tensor:
  """An array in a file, or a view of some. `read` takes a box of `shape`'s length."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[Box], np.ndarray]

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    return self.size * self.dtype.itemsize

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    del copy  # it is read anew each time
    return np.asarray(self.read(whole(self.shape)), dtype)

  def transposed(self, dims: Sequence[int]) -> "Tensor":
    """As `np.transpose`."""
    dims = tuple(dims)

    def read(box: Box) -> np.ndarray:
      asked = dict(zip(dims, box))
      part = self.read(tuple(asked[d] for d in range(len(dims))))
      return np.ascontiguousarray(part.transpose(dims))

    return Tensor(tuple(self.shape[d] for d in dims), self.dtype, read)

  def astype(self, dtype: Any) -> "Tensor":
    dtype = np.dtype(dtype)
    if dtype == self.dtype:
      return self
    return Tensor(self.shape, dtype, lambda box: self.read(box).astype(dtype))

  def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "Tensor":
    """function(whole array); for small tensors, which are read whole each time."""
    shape = function(np.zeros(self.shape, np.int8)).shape
    return Tensor(shape, self.dtype, lambda box: function(np.asarray(self))[box])

  def layer(self, index: int) -> "Tensor":
    """One entry of the first dim, as `array[index]`."""
    first = slice(index, index + 1)
    return Tensor(
      self.shape[1:], self.dtype, lambda box: self.read((first, *box)).reshape(
        [b.stop - b.start for b in box]
      ),
    )  # fmt: skip


Tensors = Mapping[str, Tensor]


def whole(shape: Sequence[int]) -> Box:
  return tuple(slice(0, n) for n in shape)


def of_array(array: Any) -> Tensor:
  """A tensor that is in memory already."""
  shape, dtype = tuple(array.shape), np.dtype(array.dtype)
  return Tensor(shape, dtype, lambda box: np.asarray(array[box]))


def zeros(shape: tuple[int, ...], dtype: Any) -> Tensor:
  return Tensor(
    tuple(shape), np.dtype(dtype),
    lambda box: np.zeros([b.stop - b.start for b in box], dtype),
  )  # fmt: skip


def stacked(layers: Sequence[Tensor]) -> Tensor:
  """As `np.stack`: the layers that a box names are read, one after another."""
  first = layers[0]

  def read(box: Box) -> np.ndarray:
    chosen = layers[box[0]]
    out = np.empty([b.stop - b.start for b in box], first.dtype)
    for part, layer in zip(out, chosen):
      part[...] = layer.read(box[1:])
    return out

  return Tensor((len(layers), *first.shape), first.dtype, read)


def load(tensor: Tensor, like: jax.ShapeDtypeStruct | jax.Array) -> jax.Array:
  """The tensor as an array of `like`'s dtype and sharding.

  Each process reads the parts of its own devices, and each part once.
  """
  parts: dict[str, np.ndarray] = {}

  def part(index: tuple) -> np.ndarray:
    box = tuple(slice(*s.indices(n)[:2]) for s, n in zip(index, tensor.shape))
    if str(box) not in parts:
      parts[str(box)] = tensor.read(box).astype(like.dtype)
    return parts[str(box)]

  return jax.make_array_from_callback(tensor.shape, like.sharding, part)


def check(expected: Mapping[str, Any], found: Tensors, *, where: str) -> None:
  """Every expected array is there with its shape, and nothing else.

  Raises:
    ValueError: names the first arrays that are missing, left over or of another shape.
  """
  for name, like in expected.items():
    if name not in found:
      raise ValueError(f"{where} has no tensor {name!r}, which the config needs")
    if tuple(found[name].shape) != tuple(like.shape):
      raise ValueError(
        f"{where}: tensor {name!r} has shape {tuple(found[name].shape)}, and the config "
        f"needs {tuple(like.shape)}"
      )
  extra = sorted(set(found) - set(expected))
  if extra:
    raise ValueError(
      f"{where} has {len(extra)} tensors that the config does not: {', '.join(extra[:3])}"
    )
