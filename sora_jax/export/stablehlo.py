"""A model as programs that need none of our code, only JAX: StableHLO, by `jax.export`.

  denoise.stablehlo  (weights, xt, t, text, ...) -> velocity; any batch, length, captions
  decode.stablehlo   (weights, latents) -> frames; any batch and number of latents
  encode.stablehlo   (weights, frames) -> latents

The weights are arguments, kept in model.safetensors beside; programs are for cpu, cuda
and tpu alike, with attention in its plain form (platform kernels do not travel).

Used by: targets.py. Shapes: as in sora_jax/api.py; b, l, m, s, t, h, w are symbolic.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export

from sora_jax import api
from sora_jax.export import examples
from sora_jax.export.sources import Source
from sora_jax.nn import attention
from sora_jax.nn.skeleton import Skeleton
from sora_jax.weights.tensors import Tensors

PLATFORMS = ("cpu", "cuda", "tpu")
# Of a packed batch, what a denoiser reads beside the noisy tokens and their levels.
FIELDS = (
  "positions", "segment_ids", "known", "text", "text_segment_ids", "text_positions",
  "sizes", "text_dropped",
)  # fmt: skip


def programs(source: Source) -> dict[str, Callable[[], export.Exported]]:
  """name -> what makes the program of that name."""
  if source.is_codec:
    return {"encode": lambda: _encode(source), "decode": lambda: _decode(source)}
  return {"denoise": lambda: _denoise(source)}


def write(source: Source, folder: pathlib.Path) -> None:
  """Writes NAME.stablehlo of every program, and an example that runs it."""
  for name, make in programs(source).items():
    (folder / f"{name}.stablehlo").write_bytes(bytes(make().serialize()))
  example = examples.codec() if source.is_codec else examples.denoiser(source)
  (folder / "example.py").write_text(example)


def _denoise(source: Source) -> export.Exported:
  objective = source.objective
  model = objective.model
  plain = dataclasses.replace(
    model.backbone, attention=attention.AttentionConfig(kernel="reference"), remat="none"
  )
  skeleton = Skeleton.of(dataclasses.replace(model, backbone=plain).make)
  params = set(skeleton.abstract[0])

  def denoise(weights: dict, inputs: dict) -> jax.Array:
    """The velocity [b, l, p] of noisy tokens."""
    merged = skeleton.merge(*apart(weights, params))
    inputs = dict(inputs)
    tokens, t_BS = inputs.pop("xt"), inputs.pop("t")
    none = jnp.zeros(t_BS.shape, jnp.int32)
    batch = api.PackedTokens(
      tokens=tokens, fps=none.astype(jnp.float32), clip_ids=none, **inputs
    )
    return merged(tokens, t_BS, batch)

  b, length, m, s, i = export.symbolic_shape("b, l, m, s, i")
  backbone = model.backbone
  text = _S((b, m, model.text.width)) if source.takes_embeddings else _S((b, m), "int32")
  inputs = {
    "xt": _S((b, length, backbone.token_dim)), "t": _S((b, s)),
    "positions": _S((b, length, 3), "int32"), "segment_ids": _S((b, length), "int32"),
    "known": _S((b, length), "bool"), "text": text,
    "text_segment_ids": _S((b, m), "int32"), "text_positions": _S((b, m), "int32"),
    "sizes": _S((b, s, 3), "int32"), "text_dropped": _S((b, s), "bool"),
  }  # fmt: skip
  if backbone.condition_dim:
    inputs["condition"] = _S((b, length, backbone.condition_dim))
  if backbone.image_dim:
    inputs["image"] = _S((b, i, backbone.image_dim))
    inputs["image_segment_ids"] = _S((b, i), "int32")
  return export.export(jax.jit(denoise), platforms=PLATFORMS)(_weights(source), inputs)


def _encode(source: Source) -> export.Exported:
  skeleton, params = _codec(source)
  compression = source.objective.model.compression

  def encode(weights: dict, frames: jax.Array) -> jax.Array:
    """[b, 1 + ct k, ch h, cw w, 3] in [-1, 1] -> latents [b, 1 + k, h, w, Z]."""
    return skeleton.merge(*apart(weights, params)).codec.encode(frames)

  ct, ch, cw = compression
  b, k, h, w = export.symbolic_shape("b, k, h, w")
  frames = _S((b, 1 + ct * k, ch * h, cw * w, 3))
  return export.export(jax.jit(encode), platforms=PLATFORMS)(_weights(source), frames)


def _decode(source: Source) -> export.Exported:
  skeleton, params = _codec(source)

  def decode(weights: dict, latents: jax.Array) -> jax.Array:
    """[b, 1 + k, h, w, Z] -> frames [b, 1 + ct k, ch h, cw w, 3] in [-1, 1]."""
    return skeleton.merge(*apart(weights, params)).codec.decode(latents)

  b, k, h, w = export.symbolic_shape("b, k, h, w")
  latents = _S((b, 1 + k, h, w, source.objective.model.latent_channels))
  return export.export(jax.jit(decode), platforms=PLATFORMS)(_weights(source), latents)


def _codec(source: Source) -> tuple[Skeleton, set[str]]:
  skeleton = Skeleton.of(source.objective.make)
  return skeleton, set(skeleton.abstract[0])


def apart(weights: dict, params: set[str]) -> tuple[dict, dict]:
  """(params, other) in float32, of all weights as they are stored."""
  wide = {
    k: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
    for k, x in weights.items()
  }
  return (
    {k: x for k, x in wide.items() if k in params},
    {k: x for k, x in wide.items() if k not in params},
  )


def _weights(source: Source) -> dict[str, jax.ShapeDtypeStruct]:
  def of(arrays: Tensors) -> dict[str, jax.ShapeDtypeStruct]:
    return {k: _S(x.shape, x.dtype) for k, x in arrays.items()}

  return of(source.params) | of(source.other)


def _S(shape: tuple, dtype="float32") -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
