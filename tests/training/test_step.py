"""The step: rows in parts, matrices in the compute dtype, no average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax.aot import flops
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training import step


def loss(params, other, batch, key):
  """A mean over the rows' own weights, as a loss over tokens is."""
  del key
  error = jnp.sum(batch["weight"] * jnp.square(batch["x"] @ params["w"] - 1.0))
  total = jnp.sum(batch["weight"])
  metrics = {"loss_weight": total, "clips": total, "mean": jnp.mean(batch["x"])}
  return error / total, ({"count": other["count"] + 1}, metrics)


def test_parts_give_the_gradient_of_the_whole():
  x, weight = jax.random.normal(jax.random.key(0), (2, 12, 3))
  batch = {"x": x, "weight": jnp.abs(weight[:, 0])}
  params, other = {"w": jnp.asarray([1.0, 2.0, 3.0])}, {"count": 0}
  gradient = jax.value_and_grad(loss, has_aux=True)
  key = jax.random.key(1)
  (whole, (_, metrics)), expected = gradient(params, other, batch, key)
  for parts in (2, 3, 12):
    (value, (after, merged)), grads = step.in_parts(gradient, parts)(
      params, other, batch, key
    )
    np.testing.assert_allclose(grads["w"], expected["w"], rtol=1e-5)
    np.testing.assert_allclose(value, whole, rtol=1e-5)
    assert after["count"] == parts
    for name in ("clips", "loss_weight", "mean"):
      np.testing.assert_allclose(merged[name], metrics[name], rtol=1e-5)


def test_parts_that_do_not_divide_are_named():
  batch = {"x": jnp.ones((3, 2)), "weight": jnp.ones(3)}
  with pytest.raises(ValueError, match="accumulate=2 must divide the batch of 3 rows"):
    step.in_parts(jax.value_and_grad(loss, has_aux=True), 2)(
      {"w": jnp.ones(2)}, {"count": 0}, batch, jax.random.key(0)
    )


def test_only_matrices_are_cast():
  params = {"a.kernel": jnp.ones((2, 2)), "a.bias": jnp.ones(2), "scale": jnp.ones(2)}
  dtypes = {k: v.dtype for k, v in step.cast_kernels(params, "bfloat16").items()}
  assert dtypes == {"a.kernel": jnp.bfloat16, "a.bias": "float32", "scale": "float32"}


def test_flops_of_a_batch_are_those_of_its_program(helpers):
  """What MFU is reckoned with, against the products that the jaxpr really has."""
  sizes = [(2, 3, 4), (1, 4, 4), (3, 2, 4)]
  clips = [helpers.clip(i, size, 6) for i, size in enumerate(sizes)]
  batch, t, eps = helpers.pack_clips([clips], text=18)
  objective = helpers.tiny_objective(absolute_frequencies=0)
  skeleton = Skeleton.of(objective.make)
  params, other = skeleton.init(jax.random.key(0))
  _, metrics = objective.velocity_loss(skeleton.merge(params, other), batch, t, eps)
  backbone = objective.model.backbone
  rows = flops.Rows(
    [24, 16, 24], [6, 6, 6], length=64, text=18, per_device=1, width=backbone.width,
    depth=backbone.depth,
  )  # fmt: skip

  def forward(tokens, t, text, batch):
    model = skeleton.merge(params, other)
    return model.backbone(tokens, t, text, batch)

  text = jnp.zeros((1, 18, backbone.text_dim))
  jaxpr = jax.make_jaxpr(forward)(batch.tokens, t, text, batch)
  # The reference computes all of L^2, so its attention stands among the products.
  square = 4 * backbone.width * backbone.depth * 64 * (64 + 18)
  counted = flops.count(jaxpr, rows, 1)["dense"] - square
  s = np.float64([24, 16, 24])
  counted += 4 * backbone.width * backbone.depth * np.sum(s * (s + 6))
  # Beside them the program has the noise levels' small products, once per level.
  levels = flops.count(
    jax.make_jaxpr(lambda t: skeleton.merge(params, other).backbone.time(t))(
      jnp.zeros((1, 6))
    ), rows, 1,
  )["dense"]  # fmt: skip
  assert metrics["model_flops"] / 3 == pytest.approx(counted - levels, rel=1e-6)
