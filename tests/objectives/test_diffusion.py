"""The diffusion objective: what is drawn, and what carries loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import known_masks


def batch_of(helpers, *sizes):
  clips = [helpers.clip(2 * i, size, 3) for i, size in enumerate(sizes)]
  return helpers.pack_clips([clips])[0]


def test_draws_belong_to_the_row_not_to_the_batch(helpers):
  """Row 0 draws the same whether other rows follow or not."""
  objective, key = helpers.tiny_objective(), jax.random.key(3)
  one = batch_of(helpers, (2, 3, 3), (1, 2, 2))
  two = jax.tree.map(lambda x: np.concatenate((x, x)), one)
  for a, b in zip(jax.tree.leaves(objective.draw(one, key)),
                  jax.tree.leaves(objective.draw(two, key))):  # fmt: skip
    np.testing.assert_array_equal(a[0], b[0])
  t, eps = objective.draw(two, key)[1:]
  assert (t[0] != t[1]).all() and (eps[0] != eps[1]).any()


def test_known_and_padded_tokens_carry_no_loss(helpers):
  objective = helpers.tiny_objective()
  skeleton = Skeleton.of(objective.make)
  model = skeleton.merge(*skeleton.init(jax.random.key(0)))
  batch, t, eps = helpers.pack_clips([[helpers.clip(1, (3, 2, 2), 3)]])
  expected, _ = objective.velocity_loss(model, batch, t, eps)
  ignored = batch.known | (batch.segment_ids == 0)
  assert batch.known.any() and (batch.segment_ids == 0).any()
  loud = np.where(ignored[..., None], 50.0, eps).astype(np.float32)
  got, _ = objective.velocity_loss(model, batch, t, loud)
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  # The head starts at zero, so the loss is the size of the target.
  target = np.square(eps - batch.tokens).mean(-1)[~ignored].mean()
  np.testing.assert_allclose(expected, target, rtol=1e-5)


def test_wrong_patches_are_named(helpers):
  objective = helpers.tiny_objective()
  skeleton = Skeleton.of(objective.make)
  model = skeleton.merge(*skeleton.init(jax.random.key(0)))
  batch = batch_of(helpers, (1, 2, 2))
  wide = batch.replace(tokens=np.repeat(batch.tokens, 2, -1))
  with pytest.raises(ValueError, match=r"8 values per token .* expects 4"):
    objective.loss(model, wide, jax.random.key(0))


TASKS = {
  "nothing": lambda t, n: t < 0,
  "first_frame": lambda t, n: (t == 0) & (n > 1),
  "first_frames": None,
  "last_frames": None,
  "both_ends": None,
  "every_kth": None,
}


@pytest.mark.parametrize("task", [*TASKS, "region"])
def test_known_masks(helpers, task):
  masks = known_masks.KnownMasks(**({"nothing": 0.0} | {task: 1.0}))
  batch = batch_of(helpers, (5, 2, 2), (1, 4, 4), (3, 3, 2))
  seen = []
  for seed in range(30):
    known = np.asarray(masks.sample(jax.random.split(jax.random.key(seed), 1), batch))
    assert not known[batch.segment_ids == 0].any()
    for segment, size in enumerate(batch.sizes[0][:3], 1):
      where = batch.segment_ids[0] == segment
      time, own = batch.positions[0, where, 0], known[0, where]
      frames = np.stack([own[time == i] for i in range(size[0])])
      if task == "region":
        continue
      # A frame is known as a whole, and something is left to generate.
      assert (frames.all(1) == frames.any(1)).all() and not own.all()
      kept = frames.all(1)
      seen.append((tuple(size), tuple(kept)))
      if TASKS[task] is not None:
        np.testing.assert_array_equal(kept, TASKS[task](np.arange(size[0]), size[0]))
      elif size[0] == 1:
        assert not kept.any()
      elif task == "first_frames":
        assert kept[0] and (np.diff(kept.astype(int)) <= 0).all()
      elif task == "last_frames":
        assert kept[-1] and (np.diff(kept.astype(int)) >= 0).all()
      else:
        assert kept[0]
  if TASKS.get(task, 0) is None:
    assert len({k for size, k in seen if size == (5, 2, 2)}) > 1, "always the same mask"


def test_masks_mix_by_weight(helpers):
  masks = known_masks.KnownMasks(nothing=1.0, first_frame=1.0)
  batch = batch_of(helpers, (2, 2, 2))
  keys = jax.vmap(jax.random.key)(jnp.arange(200))
  known = jax.vmap(lambda k: masks.sample(k[None], batch))(keys)
  assert 0.35 < float(known.any((1, 2)).mean()) < 0.65
