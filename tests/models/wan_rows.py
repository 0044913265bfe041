"""Clips of the Wan comparisons packed into one of our rows, and our model run on it.

Used by: test_wan_weights.py, tests/parity/test_wan_transformer.py.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sora_jax.models import dit, wan_weights
from sora_jax.nn import packing, patches
from sora_jax.nn.skeleton import Skeleton
from sora_jax.weights import tensors
from sora_jax.weights.tensors import Tensors


def params(config: dit.DiTConfig, found: Tensors) -> dict[str, jax.Array]:
  """Our denoiser's parameters of diffusers' tensors."""
  ours = wan_weights.from_reference(config, found, where="the reference")
  return {k.removeprefix("backbone."): jnp.asarray(np.asarray(x)) for k, x in ours.items()}


def pack(config: dit.DiTConfig, clips: list[dict]):
  """(batch of one row, t [1, S], where each clip lies)."""
  text = sum(len(clip["text"]) for clip in clips)
  batch = packing.empty(
    1, tokens=64, token_dim=config.token_dim, text=-(-text // 8) * 8 + 8, segments=3,
    text_dim=config.text_dim,
  )  # fmt: skip
  t_BS, spans = np.full((1, 3), 0.5, np.float32), []
  if config.condition_dim:
    batch.condition = np.zeros((1, 64, config.condition_dim), np.float32)
  images = []
  for number, clip in enumerate(clips):
    size = patches.grid(clip["latents"].shape, config.patch)
    tokens = patches.patchify(clip["latents"], config.patch)
    span = packing.append(
      batch, 0, size=size, tokens=tokens, text=clip["text"], clip_id=number
    )
    if "known" in clip:
      batch.known[0, span] = np.repeat(clip["known"], size[1] * size[2])
    if "condition" in clip:
      batch.condition[0, span] = patches.patchify(clip["condition"], config.patch)
      images.append(clip["image"])
    t_BS[0, number] = np.reshape(clip["t"], ())
    spans.append((span, size))
  if images:
    batch.image = np.concatenate(images)[None]
    numbers = [number + 1 for number, image in enumerate(images) for _ in image]
    batch.image_segment_ids = np.int32([numbers])
  return batch, t_BS, spans


def outputs(config: dit.DiTConfig, arrays: dict, clips: list[dict]) -> list[np.ndarray]:
  """Our output [T, H, W, C] of each clip, all in one row."""
  batch, t_BS, spans = pack(config, clips)
  model = Skeleton.of(config.make).merge(arrays, {})
  v_BLP = np.asarray(model(*map(jnp.asarray, (batch.tokens, t_BS, batch.text)), batch))
  assert not v_BLP[~np.isfinite(v_BLP)].size
  return [patches.unpatchify(v_BLP[0, span], size, config.patch) for span, size in spans]


def gradients(config: dit.DiTConfig, arrays: dict, clips: list[dict]) -> Tensors:
  """Of sum(weight * output) over the clips, under diffusers' names."""
  batch, t_BS, spans = pack(config, clips)
  skeleton = Skeleton.of(config.make)

  def total(arrays):
    operands = map(jnp.asarray, (batch.tokens, t_BS, batch.text))
    v_BLP = skeleton.merge(arrays, {})(*operands, batch)
    return sum(
      jnp.sum(v_BLP[0, span] * patches.patchify(clip["weight"], config.patch))
      for (span, _), clip in zip(spans, clips)
    )

  found = jax.grad(total)(arrays)
  return wan_weights.to_reference(
    config, {f"backbone.{k}": tensors.of_array(x) for k, x in found.items()}
  )
