"""Rectified flow on Gaussian data, where the velocity has a closed form.

For x0 ~ N(m, s^2): x_t ~ N((1 - t) m, (1 - t)^2 s^2 + t^2), and the marginal velocity
is linear in x_t. The exact flow maps noise z to m + s z.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.diffusion import guidance, process, samplers

MEAN, STD = 0.7, 0.3


def velocity(x, t):
  variance = (1 - t) ** 2 * STD**2 + t**2
  slope = (t - (1 - t) * STD**2) / variance
  return slope * (x - (1 - t) * MEAN) - MEAN


def error(sampler) -> float:
  noise = jax.random.normal(jax.random.key(0), (1, 256, 1))
  out = samplers.integrate(
    sampler, lambda x, t: velocity(x, t[..., None]), noise,
    shift=lambda t: jnp.full((1, 1), t), expand=lambda t: t[..., None],
  )  # fmt: skip
  return float(jnp.abs(out - (MEAN + STD * noise)).max())


@pytest.mark.parametrize(
  ("sampler", "order"), [(samplers.Euler, 1), (samplers.Heun, 2)]
)
def test_samplers_converge_at_their_order(sampler, order):
  coarse, fine = error(sampler(num_steps=32)), error(sampler(num_steps=64))
  assert fine < 0.03
  assert np.log2(coarse / fine) > order - 0.25


def test_known_tokens_never_move():
  noise = jax.random.normal(jax.random.key(0), (1, 4, 2))
  known = jnp.asarray([[True, False, True, False]])
  out = samplers.integrate(
    samplers.Euler(num_steps=3), lambda x, t: jnp.ones_like(x), noise,
    shift=lambda t: jnp.full((1, 1), t),
    expand=lambda t: jnp.where(known, 0.0, t)[..., None],
  )  # fmt: skip
  np.testing.assert_array_equal(out[known], noise[known])
  np.testing.assert_allclose(out[~known], noise[~known] - 1.0, rtol=1e-5)


def test_velocity_and_x0_are_the_ends_of_the_path():
  x0, eps = jax.random.normal(jax.random.key(0), (2, 5))
  t = jnp.linspace(0, 1, 5)
  xt, v = process.corrupt(x0, eps, t), process.velocity(x0, eps)
  np.testing.assert_allclose(process.to_x0(xt, v, t), x0, atol=1e-6)
  np.testing.assert_allclose(xt + (1 - t) * v, eps, atol=1e-6)


def test_shift_keeps_the_ends_and_grows_with_size():
  shift = process.Shift(base_tokens=100)
  t = np.linspace(0, 1, 11)
  for tokens in (10, 100, 1000):
    np.testing.assert_allclose(shift(t, tokens)[::10], [0, 1], atol=1e-6)
  np.testing.assert_allclose(shift(t, 100), t, atol=1e-6)
  assert (shift(t, 1000)[1:-1] > t[1:-1]).all()
  assert (shift(t, 10)[1:-1] < t[1:-1]).all()


def test_logit_normal_has_its_median():
  t = process.LogitNormal(mean=1.0).sample(jax.random.key(0), (4000,))
  assert abs(float(jnp.median(t)) - 1 / (1 + np.exp(-1.0))) < 0.02
  assert float(t.min()) > 0 and float(t.max()) < 1


def test_guidance_scale_one_is_the_conditional_model():
  conditional, unconditional = (lambda x, t: x + t), (lambda x, t: x - t)
  assert guidance.classifier_free(conditional, unconditional, 1.0) is conditional
  doubled = guidance.classifier_free(conditional, unconditional, 2.0)
  assert doubled(1.0, 0.5) == 0.5 + 2.0 * 1.0
