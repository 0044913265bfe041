"""Training the video compression network, and the two players of its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import sharding
from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import autoencoder as objective_lib
from sora_jax.training import loop, metrics, optimizer
from sora_jax.training.config import TrainConfig
from sora_jax.vae import bottlenecks, discriminator, factorized, perceptual


def network(bottleneck) -> factorized.FactorizedConfig:
  return factorized.FactorizedConfig(
    bottleneck=bottleneck, widths=(8, 16), decoder_blocks=(1, 1)
  )


def everything(**changes) -> objective_lib.AutoencoderObjective:
  return objective_lib.AutoencoderObjective(
    model=network(bottlenecks.Kl(channels=3)),
    features=perceptual.GradientPyramid(),
    features_weight=0.1,
    adversarial=objective_lib.Adversarial(
      model=discriminator.PatchGanConfig(width=8, levels=2), **changes
    ),
  )


@pytest.mark.parametrize(
  "objective",
  [
    everything(start=10),
    objective_lib.AutoencoderObjective(
      model=network(bottlenecks.Vq(channels=8, num_codes=64))
    ),
    objective_lib.AutoencoderObjective(model=network(bottlenecks.Fsq(levels=(8,) * 6))),
  ],
  ids=["kl_and_all_losses", "vq", "fsq"],
)
def test_the_loop_trains_it(objective, tmp_path, helpers):
  config = TrainConfig(
    objective=objective, data=helpers.OneBatch(),
    optimizer=optimizer.AdamW(lr=optimizer.Cosine(peak=5e-3, warmup_steps=3)),
    mesh=sharding.MeshConfig(), num_steps=40, ema_decay=0.9, log_every=20,
  )  # fmt: skip
  loop.train(config, tmp_path)
  rows = metrics.read(tmp_path)
  assert rows[-1]["mse"] < 0.7 * rows[0]["mse"]


def gradients(objective, step: int):
  skeleton = Skeleton.of(objective.make)
  params, other = skeleton.init(jax.random.key(0))
  other = {**other, "steps": jnp.asarray(step)}
  video = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3)).astype(np.uint8)

  def loss(params):
    model = skeleton.merge(params, other)
    return objective.loss(model, {"video": video}, jax.random.key(1))[0]

  return jax.jit(jax.grad(loss))(params)


def test_each_player_minds_its_own_loss():
  """D's gradient is that of its hinge loss, which waits for its step; the codec's has no
  part of that."""
  weak, strong = (gradients(everything(weight=w), 0) for w in (0.0, 5.0))
  plain = gradients(everything(start=7), 6)
  begun = gradients(everything(start=7), 7)
  for name in weak:
    if name.startswith("discriminator"):
      # Whatever the generator's weight: D sees only its own term.
      np.testing.assert_allclose(weak[name], strong[name], atol=1e-6)
      np.testing.assert_array_equal(plain[name], 0.0)
    else:
      np.testing.assert_allclose(weak[name], plain[name], atol=1e-6)
  assert any(
    np.abs(weak[name] - strong[name]).max() > 1e-4
    for name in weak if name.startswith("codec")
  )  # fmt: skip
  assert np.abs(begun["discriminator.out.kernel"]).max() > 1e-4


def test_blur_costs_more_than_a_shade():
  """Of equal squared error, the one that loses edges has the larger distance."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.integers(0, 2, (1, 4, 16, 16, 3)) * 2.0 - 1.0)
  blurred = x.mean((2, 3), keepdims=True) + 0 * x
  error = jnp.sqrt(jnp.mean(jnp.square(blurred - x)))
  shaded = x + error
  pyramid = perceptual.GradientPyramid()
  blur, shade = (perceptual.distance(pyramid, y, x) for y in (blurred, shaded))
  assert blur > 100 * shade and perceptual.distance(pyramid, x, x) == 0


def test_a_weight_without_features_is_named():
  objective = objective_lib.AutoencoderObjective(
    model=network(bottlenecks.Kl(channels=3)), features_weight=0.5
  )
  with pytest.raises(ValueError, match="features and features_weight go together"):
    Skeleton.of(objective.make)
