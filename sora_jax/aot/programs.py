"""A run's programs for devices that are not there: abstract state and batch, lowered.

Nothing is computed and no array is made; what comes out is what the compiler makes of
the very functions that a run would jit (training/step.py, generation/generator.py).

Used by: report.py. Next: flops.py, hlo.py.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from sora_jax import api, sharding
from sora_jax.diffusion import samplers
from sora_jax.generation import generator
from sora_jax.nn import packing
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training import state as state_lib
from sora_jax.training import step as step_lib
from sora_jax.training.config import TrainConfig

_IMAGE_TOKENS = 257  # that CLIP ViT-H makes of a picture


@dataclasses.dataclass(frozen=True)
class Program:
  """A function with its abstract arguments, ready to be traced, lowered and compiled."""

  function: Any  # jitted
  arguments: tuple
  mesh: jax.sharding.Mesh
  num_params: int

  def jaxpr(self) -> core.ClosedJaxpr:
    with jax.set_mesh(self.mesh):
      return self.function.trace(*self.arguments).jaxpr

  def lower(self) -> jax.stages.Lowered:
    with jax.set_mesh(self.mesh):
      return self.function.lower(*self.arguments)


def abstract_batch(
  config: TrainConfig, rows: int, mesh: jax.sharding.Mesh
) -> api.PackedTokens:
  """A batch of the config's shapes, rows over the batch axes."""
  model, data = config.objective.model, config.data
  one = packing.empty(
    1, tokens=data.tokens_per_row, token_dim=model.backbone.token_dim,
    text=data.text_tokens_per_row, segments=data.max_clips_per_row,
    text_dim=model.text.width,
  )  # fmt: skip
  dtype = config.objective.compute_dtype
  one.tokens, one.text = one.tokens.astype(dtype), one.text.astype(dtype)
  backbone = model.backbone
  if backbone.condition_dim:
    one.condition = np.zeros((1, data.tokens_per_row, backbone.condition_dim), dtype)
  if backbone.image_dim:
    tokens = _IMAGE_TOKENS * data.max_clips_per_row
    one.image = np.zeros((1, tokens, backbone.image_dim), dtype)
    one.image_segment_ids = np.zeros((1, tokens), np.int32)
  layout = sharding.named(mesh, ("batch",), (rows,))
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=layout), one
  )


def train(config: TrainConfig, rows: int, mesh: jax.sharding.Mesh) -> Program:
  """The training step: donated state in, state out."""
  skeleton = Skeleton.of(config.objective.make)
  optimizer = config.optimizer.make(config.num_steps)
  with jax.set_mesh(mesh):
    abstract = jax.eval_shape(
      lambda: state_lib.create(skeleton, optimizer, config.seed, config.ema_decay)
    )
    layout = state_lib.shardings(skeleton, abstract, mesh)
    step = step_lib.make_train_step(
      config.objective, skeleton, optimizer, seed=config.seed,
      ema_decay=config.ema_decay, accumulate=config.accumulate, guard=config.guard,
    )  # fmt: skip
    function = jax.jit(
      step, donate_argnums=0, in_shardings=(layout, sharding.batch(mesh)),
      out_shardings=(layout, None),
    )  # fmt: skip
  return Program(
    function, (abstract, abstract_batch(config, rows, mesh)), mesh, _count(abstract.params)
  )


def sample(config: TrainConfig, rows: int, mesh: jax.sharding.Mesh) -> Program:
  """One step of the sampler with guidance: canvas in, canvas out, bf16 parameters."""
  skeleton = Skeleton.of(config.objective.make)
  param_axes, other_axes = skeleton.logical_axes()

  def placed(axes: dict, arrays: dict) -> dict:
    layout = sharding.tree_shardings(mesh, axes, arrays)
    return {
      name: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=layout[name])
      for name, x in arrays.items()
    }

  params, other = skeleton.abstract
  params, other = placed(param_axes, params), placed(other_axes, other)
  batch = abstract_batch(config, rows, mesh)
  canvas = batch.tokens
  batch.tokens = jax.ShapeDtypeStruct(canvas.shape, jnp.float32, sharding=canvas.sharding)
  function = jax.jit(
    lambda params, other, batch: generator.denoise(
      skeleton, config.objective, samplers.Euler(num_steps=1), (5.0, 5.0), params, other,
      batch, batch.replace(text_dropped=jnp.ones_like(batch.text_dropped)), None,
    )
  )
  return Program(function, (params, other, batch), mesh, _count(params))


def forward(
  config: TrainConfig, rows: int, mesh: jax.sharding.Mesh
) -> core.ClosedJaxpr:
  """The denoiser's forward pass, from noisy tokens to velocities; for counting only."""
  skeleton = Skeleton.of(config.objective.make)
  batch = abstract_batch(config, rows, mesh)
  t_BS = jax.ShapeDtypeStruct(batch.sizes.shape[:2], jnp.float32)

  def velocity(params, other, t_BS, batch):
    return skeleton.merge(params, other)(batch.tokens, t_BS, batch)

  with jax.set_mesh(mesh):
    return jax.make_jaxpr(velocity)(*skeleton.abstract, t_BS, batch)


PROGRAMS = {"train": train, "sample": sample}


def _count(params: dict) -> int:
  return int(sum(np.prod(x.shape) for x in params.values()))
