"""A model as data: its structure, and its arrays in flat dicts with dotted names.

`Skeleton` is what a jitted function closes over; `params` (trained) and `other`
(carried, such as running statistics) are plain `dict[str, Array]`, for example
`backbone.blocks.layers.mlp.up.kernel`. Optimizers, checkpoints, shardings and exports
all work on these dicts.

Used by: training/state.py, generation/generator.py, generation/codec.py.
"""

import dataclasses
from collections.abc import Callable

import jax
from flax import nnx

Arrays = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a static argument
class Skeleton:
  """The structure of a model without its arrays; made by `of`."""

  make: Callable[[nnx.Rngs], nnx.Module]
  graphdef: nnx.GraphDef
  params_state: nnx.State  # abstract
  other_state: nnx.State  # abstract

  @classmethod
  def of(cls, make: Callable[[nnx.Rngs], nnx.Module]) -> "Skeleton":
    """The skeleton of what `make` builds; no array is created."""
    model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graphdef, params, other = nnx.split(model, nnx.Param, ...)
    return cls(make, graphdef, params, other)

  def init(self, key: jax.Array) -> tuple[Arrays, Arrays]:
    """Fresh (params, other)."""
    return self.split(self.make(nnx.Rngs(key)))

  def split(self, model: nnx.Module) -> tuple[Arrays, Arrays]:
    """The arrays of a model of this structure."""
    _, params, other = nnx.split(model, nnx.Param, ...)
    return _flatten(params), _flatten(other)

  def merge(self, params: Arrays, other: Arrays) -> nnx.Module:
    """The model that holds these arrays."""
    return nnx.merge(
      self.graphdef, _fill(self.params_state, params), _fill(self.other_state, other)
    )

  @property
  def abstract(self) -> tuple[Arrays, Arrays]:
    """(params, other) as `jax.ShapeDtypeStruct`s."""
    return _flatten(self.params_state), _flatten(self.other_state)

  def logical_axes(self) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Logical axis names of every array of (params, other)."""
    return _axes(self.params_state), _axes(self.other_state)


def _flatten(state: nnx.State) -> Arrays:
  return {_name(path): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def _fill(state: nnx.State, arrays: Arrays) -> nnx.State:
  flat = nnx.to_flat_state(state)
  return nnx.from_flat_state(
    [(path, leaf.replace(arrays[_name(path)])) for path, leaf in flat]
  )


def _axes(state: nnx.State) -> dict[str, tuple]:
  axes = {}
  for path, leaf in nnx.to_flat_state(state):
    names = leaf.get_metadata().get("logical_axes", (None,) * leaf.ndim)
    # A stack of layers has one dim more than the layer that was written down.
    axes[_name(path)] = ("layers",) * (leaf.ndim - len(names)) + tuple(names)
  return axes


def _name(path: tuple) -> str:
  return ".".join(str(part) for part in path)
