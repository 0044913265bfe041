"""Whether what was written is what was there: tensors, then outputs.

Used by: sora_jax/convert.py.
"""

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from sora_jax import api
from sora_jax.export import stablehlo
from sora_jax.export.sources import Source
from sora_jax.nn import packing
from sora_jax.nn.skeleton import Skeleton


def compare(before: Source, after: Source, dtype: str = "") -> int:
  """The number of tensors, when all agree bit for bit (after the cast to `dtype`).

  Raises:
    ValueError: names the first tensor that differs.
  """
  pairs = [(before.params, after.params), (before.other, after.other)]
  for old, new in pairs:
    for name, tensor in old.items():
      a, b = np.asarray(tensor), np.asarray(new[name])
      if dtype and b.dtype != a.dtype:
        a = a.astype(b.dtype)
      if a.dtype != b.dtype or a.tobytes() != b.tobytes():
        raise ValueError(f"verify: tensor {name!r} differs from what was to be written")
  return sum(len(old) for old, _ in pairs)


def outputs(source: Source) -> np.ndarray:
  """What the model makes of a small input that is always the same."""
  run, inputs = _program(source)
  return np.asarray(jax.jit(run)(_weights(source), inputs), np.float32)


def stablehlo_outputs(folder: pathlib.Path, source: Source) -> np.ndarray:
  """The same, of the program that stands in `folder`."""
  name = "decode" if source.is_codec else "denoise"
  program = export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
  _, inputs = _program(source)
  if not source.is_codec:
    batch, t_BS = inputs
    fields = {
      name: getattr(batch, name)
      for name in (*stablehlo.FIELDS, "condition", "image", "image_segment_ids")
      if getattr(batch, name) is not None
    }
    inputs = {**fields, "xt": batch.tokens, "t": t_BS}
  return np.asarray(jax.jit(program.call)(_weights(source), inputs), np.float32)


def check_outputs(
  before: Source, again: Source, folder: pathlib.Path, kind: str
) -> float:
  """The largest difference of outputs, before and after; `again` is what `folder` holds.

  Raises:
    ValueError: it is more than rounding.
  """
  expected = outputs(before)
  found = stablehlo_outputs(folder, again) if kind == "stablehlo" else outputs(again)
  worst = float(np.abs(found - expected).max())
  # Another dtype of the weights changes the result by its rounding; equal ones do not.
  coarse = {x.dtype for x in before.params.values()} != {
    x.dtype for x in again.params.values()
  }
  allowed = (0.1 if coarse else 1e-4) * max(1.0, float(np.abs(expected).max()))
  if not worst <= allowed:
    raise ValueError(f"verify: outputs differ by {worst:.3g}, more than {allowed:.3g}")
  return worst


def _weights(source: Source) -> dict[str, jax.Array]:
  of = lambda arrays: {k: jnp.asarray(np.asarray(x)) for k, x in arrays.items()}  # noqa: E731
  return of(source.params) | of(source.other)


def _program(source: Source) -> tuple[Callable, object]:
  rng = np.random.default_rng(0)
  skeleton = Skeleton.of(source.objective.make)
  names = set(skeleton.abstract[0])
  if source.is_codec:
    channels = source.objective.model.latent_channels
    latents = rng.standard_normal((1, 2, 2, 2, channels), np.float32)
    return lambda weights, z: (
      skeleton.merge(*stablehlo.apart(weights, names)).codec.decode(z)
    ), latents

  def velocity(weights: dict, inputs: tuple) -> jax.Array:
    batch, t_BS = inputs
    model = skeleton.merge(*stablehlo.apart(weights, names))
    return model(batch.tokens, t_BS, batch)

  return velocity, _small_batch(source, rng)


def _small_batch(
  source: Source, rng: np.random.Generator
) -> tuple[api.PackedTokens, np.ndarray]:
  """Two clips in one row, and their noise levels."""
  model = source.objective.model
  dim, embedded = model.backbone.token_dim, source.takes_embeddings
  batch = packing.empty(
    1, tokens=32, token_dim=dim, text=16, segments=2,
    text_dim=model.text.width if embedded else None,
  )  # fmt: skip
  for clip, size in enumerate([(2, 2, 3), (1, 3, 4)]):
    text = rng.standard_normal((5, model.text.width)) if embedded else np.arange(1, 6)
    tokens = rng.standard_normal((int(np.prod(size)), dim))
    packing.append(batch, 0, size=size, tokens=tokens, text=text, clip_id=clip)
  if model.backbone.condition_dim:
    shape = 1, 32, model.backbone.condition_dim
    batch.condition = rng.standard_normal(shape).astype(np.float32)
  if model.backbone.image_dim:
    shape = 1, 4, model.backbone.image_dim
    batch.image = rng.standard_normal(shape).astype(np.float32)
    batch.image_segment_ids = np.int32([[1, 1, 2, 2]])
  return batch, np.float32([[0.3, 0.8]])
