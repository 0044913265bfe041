"""Integrating dx/dt = velocity from noise (t = 1) to data (t = 0).

The clips of a packed row may walk through different times (see `process.Shift`), so
times have one column per clip. Known tokens are at t = 0 throughout and never move.

Shapes: B rows, L tokens, P values a patch, S segments; N steps.
Used by: generation/generator.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sora_jax import api
from sora_jax.configlib import config

# [B, S] times of clips -> [B, L, 1] times of their tokens.
Expand = Callable[[jax.Array], jax.Array]


@config
class Euler:
  """First order, one evaluation a step: x' = x + dt v(x, t)."""

  num_steps: int = 20

  def step(self, denoise: api.Denoiser, x, t, t_next, expand: Expand) -> jax.Array:
    return x + expand(t_next - t) * denoise(x, t)


@config
class Heun:
  """Second order, two evaluations a step: the mean of the slopes at both ends."""

  num_steps: int = 10

  def step(self, denoise: api.Denoiser, x, t, t_next, expand: Expand) -> jax.Array:
    dt = expand(t_next - t)
    start = denoise(x, t)
    end = denoise(x + dt * start, t_next)
    return x + 0.5 * dt * (start + end)


SAMPLERS = {"euler": Euler, "heun": Heun}


def integrate(
  sampler: Euler | Heun, denoise: api.Denoiser, noise: jax.Array,
  shift: Callable[[jax.Array], jax.Array], expand: Expand,
) -> jax.Array:  # fmt: skip
  """The data that the noise flows to.

  Args:
    sampler: the rule of one step.
    denoise: velocity of x at the times of its clips.
    noise: [B, L, P]; known tokens hold their data.
    shift: a time in [0, 1] -> the times [B, S] of the clips.
    expand: times of clips -> times of tokens.
  """
  times = jnp.linspace(1.0, 0.0, sampler.num_steps + 1)

  def step(x, ends):
    return sampler.step(denoise, x, shift(ends[0]), shift(ends[1]), expand), None

  return jax.lax.scan(step, noise, jnp.stack((times[:-1], times[1:]), -1))[0]
