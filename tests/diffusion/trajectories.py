"""A fixed nonlinear velocity, and what a sampler makes of it step by step.

Used by: test_samplers.py, and tests/parity with diffusers in our place.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sora_jax.diffusion import process, samplers


def velocity(x, t):
  """Of any library's arrays."""
  return 2.0 * x / (1.0 + x * x) + t * (1.0 - 0.4 * x)


def noise() -> np.ndarray:
  """[1, 16, 1]."""
  return np.linspace(-3.0, 3.0, 16, dtype=np.float32)[None, :, None]


def ours(name: str, num_steps: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
  """(times [N + 1], x [N + 1, 1, 16, 1]): before every step, and after the last."""
  seen_t, seen_x = [], []

  def denoise(x, t):
    seen_t.append(t[0, 0])
    seen_x.append(x)
    return velocity(x, t[..., None])

  shifted = process.Shift(shift=shift)
  with jax.disable_jit():  # a scan of Python's, which can be listened to
    out = samplers.integrate(
      samplers.SAMPLERS[name](num_steps=num_steps), denoise, jnp.asarray(noise()),
      shift=lambda t: jnp.full((1, 1), shifted(t, 1)), expand=lambda t: t[..., None],
    )  # fmt: skip
  return np.stack([*seen_t, np.float32(0.0)]), np.stack([*seen_x, out])
