"""The structures and protocols that everything else speaks.

`PackedTokens` is the one structure that reaches a model: clips of any size, cut into
spacetime patches and laid one after another into rows of fixed length (patch n' pack,
arXiv:2307.06304). An image is a one-frame video. Padding is `segment_ids == 0`, and
nothing else.

Shapes: B rows, L tokens a row, P values a patch, S segments (clips) a row, M text
tokens a row.
"""

import dataclasses
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

Array = jax.Array | np.ndarray
PyTree = Any
Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(kw_only=True, slots=True)
class PackedTokens:
  """Clips packed into rows, with their captions packed alongside.

  Segment numbers are per row, 1..S in the order in which the clips stand, and agree
  between tokens and text, so that every attention mask is one equality.
  """

  tokens: Array  # [B, L, P] float: clean latents in training, the canvas in sampling
  positions: Array  # [B, L, 3] int32: (t, h, w) of the patch inside its clip
  segment_ids: Array  # [B, L] int32: 1..S, 0 is padding; a clip is contiguous
  known: Array  # [B, L] bool: the token is given, not to be generated
  text: Array  # [B, M] int32 ids, or [B, M, D] embeddings made beforehand
  text_segment_ids: Array  # [B, M] int32
  text_positions: Array  # [B, M] int32: 0.. inside each caption
  sizes: Array  # [B, S, 3] int32: the clip's size in patches, zeros where there is none
  fps: Array  # [B, S] float32: frames per second, 0 where there is no clip
  clip_ids: Array  # [B, S] int32: index in the dataset, -1 where there is no clip
  text_dropped: Array  # [B, S] bool: the caption is replaced by the null text
  # Only for denoisers that are conditioned so (`DiTConfig.condition_channels, image_dim`):
  condition: Array | None = None  # [B, L, C] float: further values of each token
  image: Array | None = None  # [B, I, D] float: embeddings of a picture, packed
  image_segment_ids: Array | None = None  # [B, I] int32

  def replace(self, **changes: Any) -> "PackedTokens":
    return dataclasses.replace(self, **changes)


class BatchIterator(Protocol):
  """An endless stream of this process's rows of the global batch."""

  def __next__(self) -> PyTree:
    """A tree of numpy arrays whose first dim is this process's rows."""

  def get_state(self) -> dict[str, Any]:
    """Where each row stands, as JSON values keyed by the row's number."""

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues from a state; extra rows are ignored, a missing one is an error."""

  def rejected(self) -> list[dict[str, Any]]:
    """Records left out since the last call, each {"dataset", "index", "id", "reason",
    "detail"}, and each told of once in a process (of those that are too_long, some).
    May be called from another thread, and after `__next__` has raised.
    """

  def names(self, clip_ids: list[int]) -> list[str]:
    """What the clips of those numbers are called, for people to read: DATASET#ID, or
    DATASET#INDEX if it was not read lately. May be called from another thread.
    """


class BatchSource(Protocol):
  """What a config plugs in as training data."""

  rows: int  # rows of the global batch

  def open(self, rows: range) -> BatchIterator:
    """The stream of the given rows of the global batch (see DESIGN: data order)."""


class WarmStart(Protocol):
  """Where a new run's parameters come from, beside the dice."""

  def apply(
    self, objective: "Objective", params: dict[str, jax.Array]
  ) -> tuple[dict[str, jax.Array], list[str]]:
    """(the parameters to start from, what became of each), laid out as `params`."""


class Objective(Protocol):
  """Something that can be trained: what is built, and what is minimized."""

  def make(self, rngs: nnx.Rngs) -> nnx.Module:
    """The model, with fresh parameters."""

  def loss(
    self, model: nnx.Module, batch: PyTree, key: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    """Scalar loss and scalar metrics. May write to the model's other variables."""


class Denoiser(Protocol):
  """What a sampler sees: the velocity of every token at the noise level t."""

  def __call__(self, xt_BLP: jax.Array, t: jax.Array) -> jax.Array: ...


__all__ = [
  "Array", "BatchIterator", "BatchSource", "Denoiser", "Metrics",
  "Objective", "PackedTokens", "PyTree", "WarmStart",
]  # fmt: skip
