"""Denoisers made of denoisers: classifier-free guidance, experts by noise level.

Used by: generation/generator.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sora_jax import api


def classifier_free(
  conditional: api.Denoiser, unconditional: api.Denoiser, scale: float
) -> api.Denoiser:
  """v = v_uncond + scale (v_cond - v_uncond); scale 1 is the conditional model.

  Classifier-free guidance, arXiv:2207.12598.
  """

  def denoise(xt: jax.Array, t: jax.Array) -> jax.Array:
    v_uncond = unconditional(xt, t)
    return v_uncond + scale * (conditional(xt, t) - v_uncond)

  return conditional if scale == 1.0 else denoise


def by_noise_level(
  high: api.Denoiser, low: api.Denoiser, boundary: float,
  expand: Callable[[jax.Array], jax.Array],
) -> api.Denoiser:  # fmt: skip
  """Each clip by the expert of its noise level; one that no clip needs is not run.

  An ensemble of experts (eDiff-I, arXiv:2211.01324), as Wan 2.2's two: `high` from
  `boundary` to 1, `low` below. `expand` is that of samplers.integrate.
  """

  def denoise(xt: jax.Array, t: jax.Array) -> jax.Array:
    is_high = t >= boundary

    def both() -> jax.Array:
      return jnp.where(expand(is_high.astype(t.dtype)) > 0, high(xt, t), low(xt, t))

    def some_low() -> jax.Array:
      return jax.lax.cond(jnp.any(is_high), both, lambda: low(xt, t))

    return jax.lax.cond(jnp.all(is_high), lambda: high(xt, t), some_low)

  return denoise
