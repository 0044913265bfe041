"""The arrays of an Orbax checkpoint, read by slices and written from what is not in memory.

Orbax keeps an item's arrays as zarr in one OCDBT database, which tensorstore reads in
any part; restoring through Orbax would need room for whole arrays.

Used by: sora_jax/export/.
"""

import asyncio
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint import type_handlers

from sora_jax.weights import tensors
from sora_jax.weights.tensors import Tensor, Tensors

_CHUNK = 64 << 20  # bytes that tensorstore reads and writes at once


def read(item: pathlib.Path) -> dict[str, Tensor]:
  """The arrays of one item, such as WORKDIR/checkpoints/STEP/params.

  Raises:
    ValueError: the folder is no such item, or is damaged; names it.
  """
  base = {"driver": "file", "path": str(pathlib.Path(item).absolute())}
  context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})
  try:
    store = tensorstore.KvStore.open(
      {"driver": "ocdbt", "base": base}, context=context
    ).result()
    keys = [key.decode() for key in store.list().result()]
  except ValueError as error:
    raise ValueError(f"{item} is not an item of a checkpoint: {error}") from error
  names = sorted(key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray"))
  if not names:
    raise ValueError(f"{item} holds no arrays of a checkpoint")
  return {name: _tensor(base, name, context) for name in names}


def _tensor(base: dict, name: str, context: tensorstore.Context) -> Tensor:
  kvstore = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
  try:
    array = tensorstore.open(
      {"driver": "zarr", "kvstore": kvstore}, open=True, read=True, context=context
    ).result()
  except ValueError as error:
    raise ValueError(f"{base['path']}: array {name!r} is damaged: {error}") from error

  def read(box: tensors.Box) -> np.ndarray:
    try:
      return np.asarray(array[box].read().result())
    except ValueError as error:
      raise ValueError(f"{base['path']}: array {name!r} is damaged: {error}") from error

  return Tensor(tuple(array.shape), np.dtype(array.dtype.numpy_dtype), read)


def write(step: pathlib.Path, items: dict[str, Tensors], meta: dict) -> None:
  """Writes a checkpoint's step folder, one array after another.

  Args:
    step: WORKDIR/checkpoints/STEP; must not exist.
    items: the arrays of each item.
    meta: JSON values, of the item "meta".
  """
  handlers, trees = {}, {}
  for name, arrays in items.items():
    # One each, because Orbax writes every item on an event loop of its own.
    registry = type_handlers.create_type_handler_registry((Tensor, _OneByOne()))
    handlers[name] = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    chunks = {key: ocp.SaveArgs(chunk_byte_size=_CHUNK) for key in arrays}
    trees[name] = ocp.args.PyTreeSave(dict(arrays), save_args=chunks)
  handler = ocp.CompositeCheckpointHandler(meta=ocp.JsonCheckpointHandler(), **handlers)
  with ocp.Checkpointer(handler) as saver:
    saver.save(
      step.absolute(), args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **trees)
    )


class _OneByOne(type_handlers.NumpyHandler):
  """Writes tensors as numpy arrays, each read when its turn has come.

  Without the override they are still written, but all are in memory at once.
  """

  def __init__(self):
    super().__init__(deepcopy_host_arrays=False)
    self._turn = asyncio.Lock()

  async def _open_and_write(self, value: Tensor, tspec: dict, ts_context) -> None:
    async with self._turn:
      store = await tensorstore.open(
        tensorstore.Spec(tspec), create=True, open=True, context=ts_context
      )
      for box in _chunks(value.shape, store.chunk_layout.write_chunk.shape):
        await store[box].write(value.read(box))


def _chunks(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[tensors.Box]:
  """Boxes that are the chunks of a zarr array, so that none is written twice."""
  starts = (range(0, n, size) for n, size in zip(shape, chunk))
  for corner in itertools.product(*starts):
    yield tuple(
      slice(at, min(at + size, n)) for at, size, n in zip(corner, chunk, shape)
    )
