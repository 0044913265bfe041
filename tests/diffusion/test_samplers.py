"""Rectified flow on Gaussian data, where the velocity has a closed form.

For x0 ~ N(m, s^2): x_t ~ N((1 - t) m, (1 - t)^2 s^2 + t^2), and the marginal velocity
is linear in x_t. The exact flow keeps the place in the distribution, and so maps x_t to
m + s (x_t - (1 - t) m) / sqrt((1 - t)^2 s^2 + t^2): the noise z to m + s z.

The file in reference/ is made by tests/parity/schedulers.py; `make test-parity` compares
with diffusers live.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.diffusion import guidance, process, samplers
from tests.diffusion import trajectories

MEAN, STD = 0.7, 0.3
REFERENCE = pathlib.Path(__file__).with_name("reference") / "schedulers.npz"
every_sampler = pytest.mark.parametrize("name", list(samplers.SAMPLERS))


def variance(t):
  return (1 - t) ** 2 * STD**2 + t**2


def velocity(x, t):
  slope = (t - (1 - t) * STD**2) / variance(t)
  return slope * (x - (1 - t) * MEAN) - MEAN


def error(sampler, shift=lambda t: t) -> float:
  """The largest distance from what the exact flow makes of the sampler's start."""
  x = jax.random.normal(jax.random.key(0), (1, 256, 1))

  def shift_clip(t):
    return jnp.full((1, 1), shift(t))

  out = samplers.integrate(
    sampler, lambda x, t: velocity(x, t[..., None]), x, shift=shift_clip,
    expand=lambda t: t[..., None],
  )  # fmt: skip
  t = sampler.grid(sampler.num_steps, shift_clip)[0, 0, 0]
  z = (x - (1 - t) * MEAN) / jnp.sqrt(variance(t))
  return float(jnp.abs(out - (MEAN + STD * z)).max())


class EvenLogSnr:
  """Times that are even in what DPM-Solver++ and UniPC are polynomials of.

  Their order only shows away from t = 0 and 1, where no time is close to another in it.
  """

  def __call__(self, num_steps, shift):
    times = jax.nn.sigmoid(jnp.linspace(2.0, -9.0, num_steps))
    return jax.vmap(shift)(jnp.append(times, 0.0))


@pytest.mark.parametrize(
  ("name", "order"), [("euler", 1), ("heun", 2), ("dpm++", 2), ("unipc", 3)]
)
def test_samplers_converge_at_their_order(name, order):
  make = samplers.SAMPLERS[name]
  coarse, fine = (error(make(num_steps=n, grid=EvenLogSnr())) for n in (32, 64))
  assert fine < 0.05
  assert order - 0.1 < np.log2(coarse / fine) < order + 0.1


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
  ("name", "limit"),
  [("euler", 0.032), ("flow_match_euler", 0.032), ("heun", 0.0004), ("dpm++", 0.006),
   ("unipc", 0.002)],
)  # fmt: skip
def test_on_their_own_grids_they_reach_the_data(name, limit, shift):
  shifted = process.Shift(shift=shift)
  assert error(samplers.SAMPLERS[name](num_steps=128), lambda t: shifted(t, 1)) < limit


@pytest.mark.parametrize("key", sorted({k.rpartition("/")[0] for k in np.load(REFERENCE)}))
def test_as_diffusers(key):
  arrays = np.load(REFERENCE)
  name, num_steps, shift = key.split("/")
  times, x = trajectories.ours(name, int(num_steps), float(shift))
  np.testing.assert_allclose(times, arrays[f"{key}/times"], rtol=0, atol=5e-7)
  np.testing.assert_allclose(x, arrays[f"{key}/x"], rtol=0, atol=1e-5)


def row_of_two_clips(name, noise, *, num_steps=5, known=(), shifts=(1.0, 4.0)):
  """The first half of the tokens is the first clip's, the rest is the second's."""
  clip = jnp.arange(noise.shape[1]) // (noise.shape[1] // 2)
  known = jnp.isin(jnp.arange(noise.shape[1]), jnp.asarray(known, int))
  s_BS = jnp.asarray([shifts])

  def expand(t_BS):
    return jnp.where(known, 0.0, t_BS[:, clip])[..., None]

  return samplers.integrate(
    samplers.SAMPLERS[name](num_steps=num_steps),
    lambda x, t: trajectories.velocity(x, expand(t)), noise,
    shift=lambda t: s_BS * t / (1.0 + (s_BS - 1.0) * t), expand=expand,
  )  # fmt: skip


@every_sampler
def test_clips_of_a_row_walk_through_their_own_times(name):
  noise = jax.random.normal(jax.random.key(0), (1, 8, 2))
  together = row_of_two_clips(name, noise)
  for shift, half in ((1.0, slice(0, 4)), (4.0, slice(4, 8))):
    alone = row_of_two_clips(name, noise, shifts=(shift, shift))
    np.testing.assert_allclose(together[:, half], alone[:, half], rtol=1e-6, atol=1e-6)
  assert jnp.abs(together - alone)[:, :4].max() > 1e-2


@every_sampler
@pytest.mark.parametrize("num_steps", [1, 2, 3, 20])
def test_known_tokens_never_move_and_all_is_finite(name, num_steps):
  noise = jax.random.normal(jax.random.key(0), (1, 8, 2))
  known = np.array([0, 2, 7])

  def sample(noise):
    out = row_of_two_clips(name, noise, num_steps=num_steps, known=known)
    return out.sum(), out

  (_, out), gradient = jax.jit(jax.value_and_grad(sample, has_aux=True))(noise)
  np.testing.assert_array_equal(out[:, known], noise[:, known])
  assert (np.delete(np.abs(out - noise), known, axis=1) > 1e-3).all()
  assert np.isfinite(out).all() and np.isfinite(gradient).all()


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


def test_a_shift_without_dependence_on_size_is_of_every_clip():
  np.testing.assert_allclose(process.Shift(shift=3.0)(0.5, np.ones((2, 3), int)), 0.75)
  assert process.Shift(shift=3.0)(0.5, np.ones((2, 3), int)).shape == (2, 3)


def test_logit_normal_has_its_median():
  t = process.LogitNormal(mean=1.0).sample(jax.random.key(0), (4000,))
  assert abs(float(jnp.median(t)) - 1 / (1 + np.exp(-1.0))) < 0.02
  assert float(t.min()) > 0 and float(t.max()) < 1


def test_guidance_scale_one_is_the_conditional_model():
  conditional, unconditional = (lambda x, t: x + t), (lambda x, t: x - t)
  assert guidance.classifier_free(conditional, unconditional, 1.0) is conditional
  doubled = guidance.classifier_free(conditional, unconditional, 2.0)
  assert doubled(1.0, 0.5) == 0.5 + 2.0 * 1.0
