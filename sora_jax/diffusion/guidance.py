"""Classifier-free guidance (arXiv:2207.12598).

Used by: generation/generator.py.
"""

import jax

from sora_jax import api


def classifier_free(
  conditional: api.Denoiser, unconditional: api.Denoiser, scale: float
) -> api.Denoiser:
  """v = v_uncond + scale (v_cond - v_uncond); scale 1 is the conditional model."""

  def denoise(xt: jax.Array, t: jax.Array) -> jax.Array:
    v_uncond = unconditional(xt, t)
    return v_uncond + scale * (conditional(xt, t) - v_uncond)

  return conditional if scale == 1.0 else denoise
