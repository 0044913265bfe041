"""The reference attention against a loop over segments, and the layers around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.nn import attention, layers, modulation, patches, positions


def by_segment(q, k, v, q_segments, kv_segments):
  """Softmax attention of each segment by itself, in float64 numpy."""
  out = np.zeros(q.shape)
  for b in range(q.shape[0]):
    for s in set(q_segments[b].tolist()) - {0}:
      rows, keys = q_segments[b] == s, kv_segments[b] == s
      if not keys.any():
        continue
      for n in range(q.shape[2]):
        logits = q[b, rows, n] @ k[b, keys, n].T / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[b, rows, n] = weights / weights.sum(-1, keepdims=True) @ v[b, keys, n]
  return out


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_attention_stays_within_segments(scale):
  rng = np.random.default_rng(0)
  q, k, v = (scale * rng.normal(size=(3, n, 2, 8)) for n in (12, 9, 9))
  q_segments = np.asarray([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12, [0] * 12])
  kv_segments = np.asarray([[1] * 2 + [2] * 5 + [0] * 2, [2] * 9, [1] * 9])
  got = attention.reference(
    *(jnp.asarray(x, jnp.float32) for x in (q, k, v)), q_segments, kv_segments
  )
  expected = by_segment(q, k, v, q_segments, kv_segments)
  np.testing.assert_allclose(got, expected, atol=3e-5 * scale)
  # Padding, and a query without a key, give zeros and not NaN.
  assert not np.asarray(got[2]).any() and not np.asarray(got[1]).any()


def test_attention_gradients_are_finite_with_padding():
  x = jax.random.normal(jax.random.key(0), (1, 6, 1, 4))
  segments = jnp.asarray([[1, 1, 2, 0, 0, 0]])
  grads = jax.grad(
    lambda q, k, v: attention.reference(q, k, v, segments, segments).sum(), (0, 1, 2)
  )(x, x, x)
  assert all(np.isfinite(g).all() and not np.asarray(g)[0, 3:].any() for g in grads)


def test_rotary_depends_on_distance_only():
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 4, 2, 24))
  near = np.asarray([[[0, 0, 0], [1, 2, 3], [2, 0, 1], [3, 3, 3]]])

  def logits(place):
    table = positions.rotary_table(place, 24)
    a, b = positions.rotate(q, table), positions.rotate(k, table)
    return jnp.einsum("BLNH,BKNH->BNLK", a, b)

  moved = logits(near + np.asarray([5, 11, 2]))
  np.testing.assert_allclose(logits(near), moved, atol=1e-4)
  assert np.abs(logits(near) - logits(near[:, ::-1])).max() > 0.1


def test_rotary_splits_the_axes_as_wan():
  assert positions.axis_dims(128) == (44, 42, 42)
  assert positions.axis_dims(64) == (24, 20, 20)
  with pytest.raises(ValueError, match="even"):
    positions.axis_dims(33)


def test_gather_and_its_gradient():
  table = jax.random.normal(jax.random.key(0), (2, 3, 5))
  index = np.asarray([[0, 2, 2, 1], [1, 1, 1, 0]])
  weight = jax.random.normal(jax.random.key(1), (2, 4, 5))

  def plain(table):
    return jnp.stack([table[b][index[b]] for b in range(2)])

  np.testing.assert_array_equal(modulation.gather(table, index), plain(table))
  got = jax.grad(lambda t: (modulation.gather(t, index) * weight).sum())(table)
  expected = jax.grad(lambda t: (plain(t) * weight).sum())(table)
  np.testing.assert_allclose(got, expected, atol=1e-6)


def test_project_has_the_gradients_of_a_product():
  x, kernel = (jax.random.normal(jax.random.key(i), s) for i, s in
               enumerate([(2, 3, 4), (4, 5)]))  # fmt: skip

  def value(product):
    return jax.grad(lambda x, k: jnp.sin(product(x, k)).sum(), (0, 1))(x, kernel)

  for got, expected in zip(value(layers.project), value(lambda x, k: x @ k)):
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 2, 3)])
def test_patches_round_trip(patch):
  latents = np.random.default_rng(0).normal(size=(4, 4, 6, 3))
  size = patches.grid(latents.shape, patch)
  tokens = patches.patchify(latents, patch)
  np.testing.assert_array_equal(patches.unpatchify(tokens, size, patch), latents)
  np.testing.assert_array_equal(patches.patchify(jnp.asarray(latents), patch),
                                tokens.astype(np.float32))  # fmt: skip
  # The token at (t, h, w) holds the latents that start at (t pt, h ph, w pw).
  for token, (t, h, w) in zip(tokens, patches.positions(size)):
    corner = latents[t * patch[0], h * patch[1], w * patch[2]]
    np.testing.assert_array_equal(token[:3], corner)


def test_patches_that_do_not_divide_are_named():
  with pytest.raises(ValueError, match=r"\(3, 4, 4\).*\(2, 2, 2\)"):
    patches.grid((3, 4, 4, 1), (2, 2, 2))
