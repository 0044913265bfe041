"""KL, VQ and FSQ: what they promise, and where their gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sora_jax.vae import bottlenecks

KEY = jax.random.key(0)


def normal(*shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(7), shape)


def test_kl_is_that_of_gaussians():
  """Against the closed form, and its samples have the posterior's moments."""
  bottleneck = bottlenecks.Kl(channels=2, weight=1.0).make(nnx.Rngs(0))
  mean, std = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
  h = jnp.tile(jnp.concatenate((mean, 2 * jnp.log(std))), (50_000, 1))
  z, loss, metrics = bottleneck(h, KEY)
  expected = 0.5 * np.mean(mean**2 + std**2 - 1 - 2 * np.log(std))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(metrics["kl"], expected, rtol=1e-5)
  np.testing.assert_allclose(z.mean(0), mean, atol=0.05)
  np.testing.assert_allclose(z.std(0), std, rtol=0.02)
  np.testing.assert_allclose(bottleneck.latents(h)[0], mean)


def test_kl_noise_is_a_row_s_own():
  bottleneck = bottlenecks.Kl(channels=3).make(nnx.Rngs(0))
  h = normal(4, 5, 6)
  some = bottleneck.latents(h[:2], KEY)
  np.testing.assert_allclose(bottleneck.latents(h, KEY)[:2], some, rtol=1e-6)


def test_vq_takes_the_nearest_code():
  bottleneck = bottlenecks.Vq(channels=3, num_codes=16).make(nnx.Rngs(0))
  h, codebook = normal(2, 5, 3), np.asarray(bottleneck.codebook[...])
  distances = np.square(np.asarray(h)[..., None, :] - codebook).sum(-1)
  np.testing.assert_array_equal(bottleneck.codes(h), distances.argmin(-1))
  z = bottleneck.latents(h)
  np.testing.assert_allclose(z, codebook[distances.argmin(-1)])
  np.testing.assert_array_equal(bottleneck.codes(z), bottleneck.codes(h))


def test_vq_finds_clusters_and_revives_dead_codes():
  """Eight clusters, all codes dead at first: every cluster gets a code of its own."""
  centers = 5.0 * np.random.default_rng(0).normal(size=(8, 4))
  bottleneck = bottlenecks.Vq(channels=4, num_codes=32, decay=0.9).make(nnx.Rngs(0))
  bottleneck.codebook[...] = bottleneck.codebook[...] + 100.0  # nowhere near
  step = jax.jit(lambda b, h, key: (b(h, key), nnx.split(b)[1]))
  for i in range(60):
    rng = np.random.default_rng(i)
    h = jnp.asarray(centers[rng.integers(0, 8, 256)] + 0.05 * rng.normal(size=(256, 4)))
    (_, _, metrics), state = step(bottleneck, h, jax.random.fold_in(KEY, i))
    nnx.update(bottleneck, state)
  np.testing.assert_allclose(bottleneck.latents(jnp.asarray(centers)), centers, atol=0.2)
  assert metrics["codebook_usage"] > 0.5


def test_vq_moves_a_code_by_the_running_mean():
  bottleneck = bottlenecks.Vq(channels=2, num_codes=2, decay=0.5).make(nnx.Rngs(0))
  bottleneck.codebook[...] = jnp.array([[0.0, 0.0], [10.0, 10.0]])
  bottleneck.counts[...] = jnp.array([4.0, 4.0])
  h = jnp.array([[1.0, 1.0], [3.0, 3.0]])  # both nearest to code 0
  bottleneck(h, KEY)
  # counts 0.5 * 4 + 0.5 * 2 = 3, sums 0.5 * 0 + 0.5 * 4 = 2
  np.testing.assert_allclose(bottleneck.codebook[...][0], [2 / 3, 2 / 3], rtol=1e-6)
  np.testing.assert_allclose(bottleneck.codebook[...][1], [10.0, 10.0])
  np.testing.assert_allclose(bottleneck.counts[...], [3.0, 2.0])


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (4,)])
def test_fsq_uses_every_level_and_no_other(levels):
  bottleneck = bottlenecks.Fsq(levels=levels).make(nnx.Rngs(0))
  h = 4.0 * normal(20_000, len(levels))
  z = np.asarray(bottleneck.latents(h))
  for channel, count in enumerate(levels):
    values = np.unique(z[:, channel])
    assert len(values) == count and np.abs(values).max() <= 1.0
  codes = np.asarray(bottleneck.codes(z))
  assert codes.min() >= 0 and codes.max() < bottleneck.config.num_codes
  # One code for one latent, and the other way round.
  assert len(np.unique(codes)) == len(np.unique(z, axis=0))


def test_fsq_rounds_near_zero_as_the_paper_does():
  """Without the shift of even levels, 0 would lie between two of them."""
  bottleneck = bottlenecks.Fsq(levels=(4, 5)).make(nnx.Rngs(0))
  z = bottleneck.latents(jnp.zeros((1, 2)))
  np.testing.assert_allclose(z, [[0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize(
  "config", [bottlenecks.Vq(channels=2, num_codes=8, commitment=0.0),
             bottlenecks.Fsq(levels=(5, 5))]
)  # fmt: skip
def test_gradients_go_straight_through(config):
  bottleneck = config.make(nnx.Rngs(0))
  h = 0.1 * normal(6, 2)

  def value(h):
    z, loss, _ = nnx.clone(bottleneck)(h, KEY)
    return jnp.sum(3.0 * z) + loss

  grad = jax.grad(value)(h)
  assert (grad > 1.0).all()  # FSQ's passes the slope of its bound as well
  if isinstance(config, bottlenecks.Vq):
    np.testing.assert_allclose(grad, 3.0)


def test_usage():
  hits = jnp.array([2, 2, 0, 0])
  metrics = bottlenecks.usage(hits)
  np.testing.assert_allclose(metrics["codebook_usage"], 0.5)
  np.testing.assert_allclose(metrics["perplexity"], 2.0, rtol=1e-6)


def test_a_level_below_two_is_named():
  with pytest.raises(ValueError, match="must be at least 2"):
    bottlenecks.Fsq(levels=(8, 1)).make(nnx.Rngs(0))
