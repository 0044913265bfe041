"""The denoiser on packed rows: a clip never notices what it is packed with."""

import jax
import numpy as np
import pytest

from sora_jax.nn.skeleton import Skeleton

SIZES = [(2, 3, 4), (1, 4, 4), (3, 2, 2), (1, 2, 5)]


@pytest.fixture(scope="module")
def setting(helpers):
  """An objective, its skeleton and parameters that are nowhere zero."""
  objective = helpers.tiny_objective()
  skeleton = Skeleton.of(objective.make)
  params, other = jax.jit(skeleton.init)(jax.random.key(0))
  # Zero-initialized gates would hide everything behind them.
  keys = jax.random.split(jax.random.key(1), len(params))
  params = {
    name: value + 0.1 * jax.random.normal(key, value.shape)
    for key, (name, value) in zip(keys, params.items())
  }

  @jax.jit
  def run(params, batch, t, eps):
    """(velocity, per-clip loss sums as one number, its gradient)."""

    def total(params):
      model = skeleton.merge(params, other)
      loss, _ = objective.velocity_loss(model, batch, t, eps)
      weight = ((batch.segment_ids > 0) & ~batch.known).sum()
      return loss * weight

    value, grads = jax.value_and_grad(total)(params)
    return skeleton.merge(params, other)(batch.tokens, t, batch), value, grads

  clips = [helpers.clip(i, size, 3 + i) for i, size in enumerate(SIZES)]
  return objective, skeleton, params, other, run, clips


def outputs(velocity, batch) -> dict[tuple, np.ndarray]:
  """The output of each clip, keyed by its size (which is unique here)."""
  found = {}
  for r in range(batch.segment_ids.shape[0]):
    for s, size in enumerate(batch.sizes[r]):
      if size.any():
        found[tuple(size)] = np.asarray(velocity[r])[batch.segment_ids[r] == s + 1]
  return found


def assert_same(a: dict, b: dict, **tolerance) -> None:
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_allclose(a[key], b[key], **tolerance, err_msg=str(key))


def test_packed_equals_each_clip_alone(setting, helpers):
  _, _, params, _, run, clips = setting
  packed = helpers.pack_clips([clips])
  alone = helpers.pack_clips([[clip] for clip in clips])
  together = run(params, *packed)
  separate = run(params, *alone)
  assert_same(
    outputs(together[0], packed[0]), outputs(separate[0], alone[0]), atol=2e-5
  )
  np.testing.assert_allclose(together[1], separate[1], rtol=1e-5)
  assert_same(together[2], separate[2], rtol=2e-3, atol=2e-4)


def test_the_order_of_clips_does_not_matter(setting, helpers):
  _, _, params, _, run, clips = setting
  forward, backward = helpers.pack_clips([clips]), helpers.pack_clips([clips[::-1]])
  assert_same(
    outputs(run(params, *forward)[0], forward[0]),
    outputs(run(params, *backward)[0], backward[0]),
    atol=2e-5,
  )


def test_padding_content_changes_nothing(setting, helpers):
  _, _, params, _, run, clips = setting
  batch, t, eps = helpers.pack_clips([clips[:2]])
  before = run(params, batch, t, eps)
  rng = np.random.default_rng(0)
  pad, text_pad = batch.segment_ids == 0, batch.text_segment_ids == 0
  assert pad.any() and text_pad.any()
  noisy = batch.replace(
    tokens=np.where(pad[..., None], rng.normal(size=batch.tokens.shape), batch.tokens)
    .astype(np.float32),
    positions=np.where(pad[..., None], rng.integers(0, 9, (1, 64, 3)), batch.positions)
    .astype(np.int32),
    known=batch.known | pad,
    text=np.where(text_pad, 7, batch.text).astype(np.int32),
  )  # fmt: skip
  after = run(params, noisy, t, np.where(pad[..., None], 3.0, eps).astype(np.float32))
  assert_same(outputs(before[0], batch), outputs(after[0], batch), atol=1e-6)
  assert_same(before[2], after[2], atol=1e-5)


def test_a_clip_sees_its_own_caption_only(setting, helpers):
  _, _, params, _, run, clips = setting
  first = helpers.pack_clips([clips])
  other = [dict(clips[0], text=clips[0]["text"][::-1] + 1), *clips[1:]]
  second = helpers.pack_clips([other])
  a = outputs(run(params, *first)[0], first[0])
  b = outputs(run(params, *second)[0], second[0])
  changed = clips[0]["size"]
  assert np.abs(a.pop(changed) - b.pop(changed)).max() > 1e-3
  assert_same(a, b, atol=1e-6)


def test_known_tokens_are_conditions(setting, helpers):
  """A known token changes its clip, and its own noise level is 0 whatever t is."""
  _, skeleton, params, other, _, clips = setting
  model = skeleton.merge(params, other)
  batch, t, _ = helpers.pack_clips([[clips[1]]])
  none_known = batch.replace(known=np.zeros_like(batch.known))
  a, b = model(batch.tokens, t, batch), model(batch.tokens, t, none_known)
  assert np.abs(np.asarray(a - b)).max() > 1e-3
  all_known = batch.replace(known=batch.segment_ids > 0)
  c, d = model(batch.tokens, t, all_known), model(batch.tokens, t * 0, none_known)
  span = batch.segment_ids[0] > 0
  np.testing.assert_allclose(c[0, span], d[0, span], atol=1e-5)


@pytest.mark.parametrize(
  "changes", [{"scan": False}, {"remat": "full"}, {"remat": "dots"}], ids=str
)
def test_scan_unrolled_and_remat_are_the_same(setting, helpers, changes):
  objective, skeleton, params, other, _, clips = setting
  variant = helpers.tiny_objective(**changes)
  batch, t, eps = helpers.pack_clips([clips])

  def loss(objective, skeleton):
    def value(params):
      model = skeleton.merge(params, other)
      return objective.velocity_loss(model, batch, t, eps)[0]

    return jax.jit(jax.value_and_grad(value))(params)

  expected = loss(objective, skeleton)
  got = loss(variant, Skeleton.of(variant.make))
  np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
  assert_same(got[1], expected[1], atol=1e-5)


def test_starts_at_zero_and_learns_from_there(helpers):
  """The head is zero at first, so the first velocity is 0 and its gradient is not."""
  objective = helpers.tiny_objective()
  skeleton = Skeleton.of(objective.make)
  params, other = skeleton.init(jax.random.key(0))
  batch, t, eps = helpers.pack_clips([[helpers.clip(0, (2, 2, 2), 3)]])
  assert not np.asarray(skeleton.merge(params, other)(batch.tokens, t, batch)).any()
  grads = jax.grad(
    lambda p: objective.velocity_loss(skeleton.merge(p, other), batch, t, eps)[0]
  )(params)
  assert np.asarray(grads["backbone.head.kernel"]).any()


def test_widths_that_disagree_are_named(helpers):
  config = helpers.tiny_model(text_dim=20)
  with pytest.raises(ValueError, match=r"backbone\.text_dim \(20\)"):
    Skeleton.of(config.make)


def test_bfloat16_is_close_to_float32(setting, helpers):
  """Half precision changes the loss and its gradient by its rounding, not more."""
  objective, skeleton, params, other, _, clips = setting
  batch, t, eps = helpers.pack_clips([clips])

  def loss_and_grads(dtype):
    variant = helpers.tiny_objective()
    variant.compute_dtype = dtype

    def value(params):
      model = skeleton.merge(params, other)
      return variant.velocity_loss(model, batch, t, eps)[0]

    return jax.jit(jax.value_and_grad(value))(params)

  exact, half = loss_and_grads(objective.compute_dtype), loss_and_grads("bfloat16")
  np.testing.assert_allclose(half[0], exact[0], rtol=0.02)
  for name, grad in exact[1].items():
    assert half[1][name].dtype == np.float32, name
    scale = np.abs(grad).max() + 1e-3
    assert np.abs(half[1][name] - grad).max() < 0.25 * scale, name
