"""The training step: a pure function (state, batch) -> (state, metrics).

Used by: training/loop.py, training/rerun.py.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from sora_jax import api
from sora_jax.nn.skeleton import Arrays, Skeleton
from sora_jax.training import guard as guard_lib
from sora_jax.training.state import TrainState

_NO_SPIKES = guard_lib.Guard()
# Metrics that count; all others are means over rows.
_SUMS = ("useful_tokens", "model_flops", "clips", "loss_weight")
TrainStep = Callable[[TrainState, api.PyTree], tuple[TrainState, api.Metrics]]


def make_train_step(
  objective: api.Objective,
  skeleton: Skeleton,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  ema_decay: float | None,
  accumulate: int = 1,
  guard: guard_lib.Guard = _NO_SPIKES,
) -> TrainStep:
  """The step of one objective; randomness is keyed by (seed, step).

  Where loss or gradient are not finite, or the guard sees a spike, all but the step's
  number stays as it was, and the metric "skipped" is 1.

  With `accumulate` a step sees its rows in so many parts, one after another, and needs
  the activations of one part only; the gradient is that of all rows together.
  """

  gradient = make_gradient(objective, skeleton)

  def train_step(state: TrainState, batch: api.PyTree):
    (loss, (other, metrics)), grads = in_parts(gradient, accumulate)(
      state.params, state.other, batch, key_of_step(seed, state.step)
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema_decay is not None:
      # Early parameters are poor, so the average forgets them faster at first.
      decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
      ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)
    grad_norm = optax.tree.norm(grads)
    # One bad batch, and all would be NaN for good: it is left out, and counted.
    good = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & ~guard.spikes(state.guard, loss)
    guarded = guard_lib.after(state.guard, loss, grad_norm, good)
    metrics = {
      "loss": loss, "grad_norm": grad_norm, "skipped": 1.0 - good.astype(jnp.float32),
      "left_out": guarded["left_out"], **metrics,
    }  # fmt: skip
    new = TrainState(
      step=state.step + 1, params=params, ema=ema, other=other, opt_state=opt_state,
      guard=guarded,
    )  # fmt: skip
    old = dataclasses.replace(state, step=state.step + 1, guard=guarded)
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old), metrics

  return train_step


def make_gradient(objective: api.Objective, skeleton: Skeleton) -> Callable:
  """(params, other, batch, key) -> ((loss, (other, metrics)), grads)."""

  def loss_fn(params, other, batch, key):
    # Weights in the compute dtype from here on: what is gathered from other devices is
    # half as large. Gradients, moments and the parameters themselves stay float32.
    params = cast_kernels(params, getattr(objective, "compute_dtype", "float32"))
    model = skeleton.merge(params, other)
    loss, metrics = objective.loss(model, batch, key)
    return loss, (skeleton.split(model)[1], metrics)

  return jax.value_and_grad(loss_fn, has_aux=True)


def key_of_step(seed: int, step: jax.Array | int) -> jax.Array:
  """What noise, times and dropped captions of a step are drawn from."""
  # A stream of its own: parameters were drawn from the seed's own key.
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), step)


def cast_kernels(params: Arrays, dtype: str) -> Arrays:
  """The matrices in the compute dtype; biases, norms and tables stay float32."""
  return {
    name: value.astype(dtype) if name.endswith("kernel") else value
    for name, value in params.items()
  }


def in_parts(gradient: Callable, parts: int) -> Callable:
  """`gradient` of a batch, taken over parts of its rows one after another.

  `gradient` is (params, other, batch, key) -> ((loss, (other, metrics)), grads). A part
  counts by its metric "loss_weight", what its loss is a mean over; part i holds the rows
  i, i + parts, ..., so that every device has its share of each.

  Raises:
    ValueError: the rows do not divide.
  """
  if parts == 1:
    return gradient

  def split(x: jax.Array) -> jax.Array:
    if x.shape[0] % parts:
      raise ValueError(f"accumulate={parts} must divide the batch of {x.shape[0]} rows")
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

  def accumulated(params: Arrays, other: Arrays, batch: api.PyTree, key: jax.Array):
    def part(carry, numbered):
      other, grads = carry
      number, rows = numbered
      (loss, (other, metrics)), new = gradient(
        params, other, rows, jax.random.fold_in(key, number)
      )
      weight = metrics.get("loss_weight", jnp.float32(1.0))
      grads = jax.tree.map(lambda total, x: total + weight * x, grads, new)
      return (other, grads), (loss, weight, metrics)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
    (other, grads), (losses, weights, metrics) = jax.lax.scan(
      part, (other, zeros), (jnp.arange(parts), jax.tree.map(split, batch))
    )
    total = jnp.sum(weights)
    merged = {
      name: jnp.sum(x) if name in _SUMS else jnp.mean(x) for name, x in metrics.items()
    }
    loss = jnp.sum(losses * weights) / total
    return (loss, (other, merged)), jax.tree.map(lambda x: x / total, grads)

  return accumulated
