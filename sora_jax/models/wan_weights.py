"""Weights of Wan's transformer, between our names and diffusers' `WanTransformer3DModel`.

  ours                                          diffusers
  backbone.embed.kernel [P, D]                  patch_embedding.weight [D, C, pt, ph, pw]
  backbone.time.hidden, out, project            condition_embedder.time_embedder, time_proj
  backbone.text_in, text_out                    condition_embedder.text_embedder
  backbone.image.*                              condition_embedder.image_embedder
  backbone.blocks.layers.self_attention         blocks.N.attn1
  backbone.blocks.layers.cross_attention        blocks.N.attn2
  backbone.blocks.layers.cross_norm             blocks.N.norm2
  backbone.blocks.layers.mlp.up, down           blocks.N.ffn.net
  backbone.blocks.layers.modulation [N, 6 D]    blocks.N.scale_shift_table [1, 6, D]
  backbone.head, head_modulation [2, D]         proj_out, scale_shift_table [1, 2, D]

Kernels are transposed, layers are stacked, and scales of norms are called weights. Both
directions are views (weights/tensors.py): nothing is read until it is needed.

Shapes: D width, P values of a patch, C channels.
Used by: sora_jax/export/. Next: dit.py.
"""

import math
from typing import Any

import numpy as np

from sora_jax.models import dit
from sora_jax.nn.skeleton import Skeleton
from sora_jax.weights import tensors
from sora_jax.weights.tensors import Tensor, Tensors

CLASS = "WanTransformer3DModel"
STEM = "diffusion_pytorch_model"
PREFIX = "backbone."  # of the denoiser among the arrays of a text-to-video model
_LAYERS = "blocks.layers."

# Modules, ours -> theirs; first those that stand once, then those of every block.
_ONCE = {
  "time.hidden": "condition_embedder.time_embedder.linear_1",
  "time.out": "condition_embedder.time_embedder.linear_2",
  "time.project": "condition_embedder.time_proj",
  "text_in": "condition_embedder.text_embedder.linear_1",
  "text_out": "condition_embedder.text_embedder.linear_2",
  "image.norm_in": "condition_embedder.image_embedder.norm1",
  "image.up": "condition_embedder.image_embedder.ff.net.0.proj",
  "image.down": "condition_embedder.image_embedder.ff.net.2",
  "image.norm_out": "condition_embedder.image_embedder.norm2",
  "head": "proj_out",
}
_ATTENTION = {
  "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0", "q_norm": "norm_q",
  "k_norm": "norm_k", "image_k": "add_k_proj", "image_v": "add_v_proj",
  "image_k_norm": "norm_added_k",
}  # fmt: skip
_BLOCK = {
  "cross_norm": "norm2", "mlp.up": "ffn.net.0.proj", "mlp.down": "ffn.net.2",
  **{f"self_attention.{k}": f"attn1.{v}" for k, v in _ATTENTION.items()},
  **{f"cross_attention.{k}": f"attn2.{v}" for k, v in _ATTENTION.items()},
}  # fmt: skip
_KINDS = {"kernel": "weight", "bias": "bias", "scale": "weight"}


# ---- Configs --------------------------------------------------------------------------


def config_from_reference(described: dict[str, Any], **changes: Any) -> dit.DiTConfig:
  """Our config of diffusers' config.json; `changes` are fields that it does not tell.

  Raises:
    ValueError: it is another model, or a variant that ours is not.
  """
  if described.get("_class_name") != CLASS:
    raise ValueError(f"config.json is of a {described.get('_class_name')}, not a {CLASS}")
  fixed = {
    "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": 1e-6,
    "pos_embed_seq_len": None,
  }  # fmt: skip
  for name, value in fixed.items():
    if described.get(name, value) != value:
      raise ValueError(
        f"{CLASS} with {name}={described[name]!r} is not supported, only {value!r}"
      )
  heads = described["num_attention_heads"]
  out = described.get("out_channels") or described["in_channels"]
  return dit.DiTConfig(
    patch=tuple(described["patch_size"]),
    latent_channels=out,
    condition_channels=described["in_channels"] - out,
    width=heads * described["attention_head_dim"],
    depth=described["num_layers"],
    num_heads=heads,
    mlp_dim=described["ffn_dim"],
    text_dim=described["text_dim"],
    freq_dim=described["freq_dim"],
    image_dim=described.get("image_dim") or 0,
    **changes,
  )


def config_to_reference(config: dit.DiTConfig) -> dict[str, Any]:
  """Diffusers' config.json of our config.

  Raises:
    ValueError: ours has something that theirs has no place for.
  """
  for field, only in (("activation", "gelu_tanh"), ("absolute_frequencies", 0)):
    if getattr(config, field) != only:
      raise ValueError(
        f"backbone.{field}={getattr(config, field)!r} has no place in diffusers' {CLASS}, "
        f"only {only!r}: export it with --to=safetensors or --to=stablehlo"
      )
  return {
    "_class_name": CLASS,
    "patch_size": list(config.patch),
    "num_attention_heads": config.num_heads,
    "attention_head_dim": config.width // config.num_heads,
    "in_channels": config.latent_channels + config.condition_channels,
    "out_channels": config.latent_channels,
    "text_dim": config.text_dim,
    "freq_dim": config.freq_dim,
    "ffn_dim": config.mlp_dim,
    "num_layers": config.depth,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": config.image_dim or None,
    "added_kv_proj_dim": config.width if config.image_dim else None,
    "rope_max_seq_len": 1024,
    "pos_embed_seq_len": None,
  }


# ---- Arrays ---------------------------------------------------------------------------


def from_reference(config: dit.DiTConfig, found: Tensors, *, where: str) -> Tensors:
  """Our denoiser's arrays, as views of diffusers'; names start with `backbone.`.

  Raises:
    ValueError: a tensor is missing, left over, or of another shape; names it.
  """
  tensors.check(reference_shapes(config), found, where=where)
  ours = {}
  for name, like in _shapes(config).items():
    if name.startswith(_LAYERS):
      sources = [found[_reference(name, layer)] for layer in range(config.depth)]
      ours[PREFIX + name] = tensors.stacked(
        [_to_ours(config, name, source, like.shape[1:]) for source in sources]
      )
    else:
      source = found[_reference(name)]
      ours[PREFIX + name] = _to_ours(config, name, source, like.shape)
  return ours


def to_reference(config: dit.DiTConfig, ours: Tensors) -> Tensors:
  """Diffusers' tensors, as views of our denoiser's; the inverse of `from_reference`."""
  theirs = {}
  for name in _shapes(config):
    tensor = ours[PREFIX + name]
    if name.startswith(_LAYERS):
      for layer in range(config.depth):
        theirs[_reference(name, layer)] = _to_theirs(config, name, tensor.layer(layer))
    else:
      theirs[_reference(name)] = _to_theirs(config, name, tensor)
  return theirs


def _reference(name: str, layer: int | None = None) -> str:
  """Diffusers' name of ours, without `backbone.`."""
  if layer is not None:
    name = name.removeprefix(_LAYERS)
  module, _, kind = name.rpartition(".")
  if kind.endswith("modulation"):
    theirs = "scale_shift_table"
  elif module == "embed":
    theirs = f"patch_embedding.{_KINDS[kind]}"
  else:
    theirs = f"{(_ONCE if layer is None else _BLOCK)[module]}.{_KINDS[kind]}"
  return theirs if layer is None else f"blocks.{layer}.{theirs}"


def _to_ours(
  config: dit.DiTConfig, name: str, tensor: Tensor, shape: tuple[int, ...]
) -> Tensor:
  """One tensor of diffusers', of one layer, as ours."""
  if name.endswith("modulation"):
    return tensor.mapped(lambda x: x.reshape(shape))
  if name == "embed.kernel":
    return tensor.mapped(lambda x: _kernel_of_patches(config, x))
  return tensor.transposed((1, 0)) if name.endswith("kernel") else tensor


def _to_theirs(config: dit.DiTConfig, name: str, tensor: Tensor) -> Tensor:
  if name.endswith("modulation"):
    return tensor.mapped(lambda x: x.reshape(1, -1, config.width))
  if name == "embed.kernel":
    return tensor.mapped(lambda x: _convolution_of_patches(config, x))
  return tensor.transposed((1, 0)) if name.endswith("kernel") else tensor


def _kernel_of_patches(config: dit.DiTConfig, weight: np.ndarray) -> np.ndarray:
  """[D, C, pt, ph, pw] -> [P, D]: noisy channels of all positions, then conditions."""
  by_channel = np.moveaxis(weight, (0, 1), (-1, -2))  # [pt, ph, pw, C, D]
  parts = np.split(by_channel, [config.latent_channels], axis=-2)
  return np.concatenate([part.reshape(-1, config.width) for part in parts])


def _convolution_of_patches(config: dit.DiTConfig, kernel: np.ndarray) -> np.ndarray:
  """The inverse of `_kernel_of_patches`."""
  parts = np.split(kernel, [math.prod(config.patch) * config.latent_channels])
  parts = [part.reshape(*config.patch, -1, config.width) for part in parts if part.size]
  return np.moveaxis(np.concatenate(parts, -2), (-1, -2), (0, 1))


def _shapes(config: dit.DiTConfig) -> dict[str, Any]:
  return Skeleton.of(config.make).abstract[0]


def reference_shapes(config: dit.DiTConfig) -> dict[str, Tensor]:
  """What diffusers' file must hold."""
  empty = {
    PREFIX + name: Tensor(like.shape, np.dtype(like.dtype), lambda box: None)
    for name, like in _shapes(config).items()
  }
  return to_reference(config, empty)
