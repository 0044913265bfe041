"""TrainState: all that a run carries from step to step, born with its shardings.

Used by: training/step.py, training/loop.py, training/checkpoint.py.
"""

import collections
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sora_jax import distributed, sharding
from sora_jax.nn.skeleton import Arrays, Skeleton
from sora_jax.training import guard


@jax.tree_util.register_dataclass
@dataclasses.dataclass(kw_only=True, slots=True)
class TrainState:
  """Parameters, their moving average, and what the optimizer and the model carry."""

  step: jax.Array  # int32: updates done
  params: Arrays
  ema: Arrays  # empty where the run keeps none
  other: Arrays  # the model's variables that are not trained
  opt_state: Any
  guard: Arrays  # see guard.py


def create(
  skeleton: Skeleton, optimizer: optax.GradientTransformation, seed: int,
  ema_decay: float | None = 0.0,
) -> TrainState:  # fmt: skip
  """The state before the first step. Meant to be jitted with `shardings`."""
  params, other = skeleton.init(jax.random.key(seed))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # A copy, so that the two can be donated separately.
    ema={} if ema_decay is None else jax.tree.map(jnp.array, params),
    other=other,
    opt_state=optimizer.init(params),
    guard=guard.initial(),
  )


def shardings(skeleton: Skeleton, abstract: TrainState, mesh: Mesh) -> TrainState:
  """The sharding of every leaf: optimizer moments lie as their parameter does."""
  param_axes, other_axes = skeleton.logical_axes()
  params = sharding.tree_shardings(mesh, param_axes, abstract.params)
  replicated = NamedSharding(mesh, PartitionSpec())

  def moment(path: tuple, leaf: Any) -> NamedSharding:
    names = [getattr(key, "key", None) for key in path]
    owner = next((name for name in reversed(names) if name in params), None)
    if owner is not None and abstract.params[owner].shape == leaf.shape:
      return params[owner]
    return replicated

  return TrainState(
    step=replicated,
    params=params,
    ema=params if abstract.ema else {},
    other=sharding.tree_shardings(mesh, other_axes, abstract.other),
    opt_state=jax.tree_util.tree_map_with_path(moment, abstract.opt_state),
    guard=jax.tree.map(lambda _: replicated, abstract.guard),
  )


def warm_started(state: TrainState, config: Any, workdir: pathlib.Path) -> TrainState:
  """The new state with the parameters of `config.warm_start`.

  What became of every parameter is told in WORKDIR/warm_start.txt, and in short here.
  """
  params, lines = config.warm_start.apply(config.objective, state.params)
  if distributed.is_primary():
    (workdir / "warm_start.txt").write_text("\n".join(lines) + "\n")
    counts = collections.Counter(line.split()[0] for line in lines)
    told = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    print(f"warm start: {told} (see {workdir / 'warm_start.txt'})")
  ema = jax.tree.map(jnp.array, params) if state.ema else {}
  return dataclasses.replace(state, params=params, ema=ema)


def init_sharded(
  skeleton: Skeleton, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh,
  ema_decay: float | None = 0.0,
) -> tuple[TrainState, TrainState]:  # fmt: skip
  """(state, its shardings); every array is made on the devices that keep it."""
  make = functools.partial(create, skeleton, optimizer, seed, ema_decay)
  layout = shardings(skeleton, jax.eval_shape(make), mesh)
  return jax.jit(make, out_shardings=layout)(), layout
