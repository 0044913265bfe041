"""The training step: a pure function (state, batch) -> (state, metrics).

Used by: training/loop.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from sora_jax import api
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training.state import TrainState

TrainStep = Callable[[TrainState, api.PyTree], tuple[TrainState, api.Metrics]]


def make_train_step(
  objective: api.Objective,
  skeleton: Skeleton,
  optimizer: optax.GradientTransformation,
  *,
  seed: int,
  ema_decay: float,
) -> TrainStep:
  """The step of one objective; randomness is keyed by (seed, step)."""

  def loss_fn(params, other, batch, key):
    model = skeleton.merge(params, other)
    loss, metrics = objective.loss(model, batch, key)
    return loss, (skeleton.split(model)[1], metrics)

  def train_step(state: TrainState, batch: api.PyTree):
    # A stream of its own: parameters were drawn from the seed's own key.
    key = jax.random.fold_in(jax.random.key(seed), 1)
    key = jax.random.fold_in(key, state.step)
    (loss, (other, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, state.other, batch, key
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Early parameters are poor, so the average forgets them faster at first.
    decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}
    state = TrainState(
      step=state.step + 1, params=params, ema=ema, other=other, opt_state=opt_state
    )
    return state, metrics

  return train_step
