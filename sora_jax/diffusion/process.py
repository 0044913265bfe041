"""Rectified flow: the straight path from data to noise, and the times to train at.

  x_t = (1 - t) x_0 + t eps,   dx/dt = velocity = eps - x_0          t in [0, 1]

(arXiv:2209.03003, arXiv:2210.02747.) t = 0 is data and t = 1 is noise. Times are
logit-normal (arXiv:2403.03206) and then shifted towards noise the more tokens a clip
has, because more tokens need more noise to be equally destroyed:

  t' = s t / (1 + (s - 1) t),   s = shift * sqrt(num_tokens / base_tokens)

Shapes: B rows, L tokens, S segments.
Used by: objectives/diffusion.py, diffusion/samplers.py.
"""

import jax
import jax.numpy as jnp

from sora_jax.api import Array
from sora_jax.configlib import config


def corrupt(x0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
  """x_t; t broadcasts against x0."""
  return (1.0 - t) * x0 + t * eps


def velocity(x0: jax.Array, eps: jax.Array) -> jax.Array:
  """dx_t/dt, the same at every t."""
  return eps - x0


def to_x0(xt: jax.Array, v: jax.Array, t: jax.Array) -> jax.Array:
  """The data at the end of the straight line through x_t."""
  return xt - t * v


@config
class Shift:
  """The shift of times; with `base_tokens` it grows with the clip's size."""

  shift: float = 1.0
  base_tokens: int = 0  # 0: no dependence on size
  low: float = 0.5
  high: float = 12.0

  def __call__(self, t: Array, num_tokens: Array) -> jax.Array:
    """t', for clips of `num_tokens`; broadcasts."""
    s = jnp.full(jnp.shape(num_tokens), self.shift, jnp.float32)
    if self.base_tokens:
      relative = jnp.maximum(num_tokens, 1) / self.base_tokens
      s = jnp.clip(self.shift * jnp.sqrt(relative), self.low, self.high)
    return s * t / (1.0 + (s - 1.0) * t)


@config
class LogitNormal:
  """t = sigmoid(mean + std * normal): more weight on the middle of the path."""

  mean: float = 0.0
  std: float = 1.0

  def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, shape))


@config
class Uniform:
  """t uniform on [0, 1]."""

  def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape)
