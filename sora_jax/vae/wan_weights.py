"""Weights of the Wan autoencoder, from and to diffusers' files.

A folder of diffusers holds config.json and diffusion_pytorch_model.safetensors. Names
agree with ours but for the last word, and kernels are transposed:

  conv.weight [O, I, kt, kh, kw]  <->  conv.kernel [kt, kh, kw, I, O]
  norm.gamma [C, 1, 1, 1]         <->  norm.scale [C]

Used by: generation/codec.py. Next: wan.py.
"""

import json
import pathlib

import numpy as np

from sora_jax.nn.skeleton import Skeleton
from sora_jax.vae import bottlenecks, wan
from sora_jax.weights import safetensors_files, tensors

Arrays = dict[str, np.ndarray]
_STEM = "diffusion_pytorch_model"
WEIGHTS = f"{_STEM}.safetensors"
_LARGEST, _MOST_LAYERS = 1 << 14, 32  # far beyond any that was published
_TO_REFERENCE = {"kernel": "weight", "bias": "bias", "scale": "gamma"}


def is_wan(folder: str | pathlib.Path) -> bool:
  """Whether the folder holds a diffusers `AutoencoderKLWan`.

  Raises:
    ValueError: its config.json is no JSON object.
  """
  path = pathlib.Path(folder) / "config.json"
  return path.is_file() and _describe(path).get("_class_name") == "AutoencoderKLWan"


def _describe(path: pathlib.Path) -> dict:
  try:
    described = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not JSON: {error}") from error
  if not isinstance(described, dict):
    raise ValueError(f"{path} is not a JSON object")
  return described


def load(folder: str | pathlib.Path) -> tuple[wan.WanConfig, Arrays, Arrays]:
  """(config, params, other) of a folder in diffusers' layout, float32.

  Raises:
    ValueError: the folder is not one, or its arrays do not fit its config.
  """
  folder = pathlib.Path(folder)
  if not is_wan(folder):
    raise ValueError(f"{folder} has no config.json of a diffusers AutoencoderKLWan")
  if not (folder / WEIGHTS).exists():
    raise ValueError(f"{folder} has no {WEIGHTS}")
  path = folder / "config.json"
  described = _describe(path)
  try:
    config = config_from_reference(described)
    mean = np.asarray(described["latents_mean"], np.float32)
    std = np.asarray(described["latents_std"], np.float32)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"{path} does not describe a Wan autoencoder: {error!r}") from error
  if mean.shape != std.shape or mean.shape != (config.latent_channels,):
    raise ValueError(
      f"{path}: latents_mean and latents_std must have {config.latent_channels} values, "
      "as z_dim says"
    )
  params = params_from_reference(config, safetensors_files.read(folder / WEIGHTS))
  return config, params, {"latent_mean": mean, "latent_square": std**2 + mean**2}


def config_from_reference(described: dict) -> wan.WanConfig:
  """Our config of diffusers' config.json."""
  if described.get("attn_scales"):
    raise ValueError("attn_scales is not supported; no published Wan uses it")
  levels, blocks = described["dim_mult"], described["num_res_blocks"]
  sizes = [described["base_dim"], described["z_dim"], blocks, *levels]
  sizes += [described[k] for k in ("decoder_base_dim", "patch_size") if described.get(k)]
  if not all(type(n) is int and 0 < n <= _LARGEST for n in sizes):
    raise ValueError(f"its sizes must be whole numbers from 1 to {_LARGEST}, not {sizes}")
  if max(len(levels), blocks) > _MOST_LAYERS:
    raise ValueError(f"it has {len(levels)} levels of {blocks} blocks")
  return wan.WanConfig(
    bottleneck=bottlenecks.Kl(channels=described["z_dim"]),
    base_dim=described["base_dim"],
    decoder_base_dim=described.get("decoder_base_dim"),
    dim_mult=tuple(described["dim_mult"]),
    num_res_blocks=described["num_res_blocks"],
    temporal_downsample=tuple(described["temperal_downsample"]),
    residual=described.get("is_residual", False),
    patch=described.get("patch_size") or 1,
  )


def config_to_reference(config: wan.WanConfig, other: Arrays) -> dict:
  """Diffusers' config.json of our config and latent statistics."""
  mean, square = (np.asarray(other[k]) for k in ("latent_mean", "latent_square"))
  return {
    "_class_name": "AutoencoderKLWan",
    "base_dim": config.base_dim,
    "decoder_base_dim": config.decoder_base_dim,
    "z_dim": config.latent_channels,
    "dim_mult": list(config.dim_mult),
    "num_res_blocks": config.num_res_blocks,
    "attn_scales": [],
    "temperal_downsample": list(config.temporal_downsample),
    "dropout": 0.0,
    "is_residual": config.residual,
    "in_channels": 3 * config.patch**2,
    "out_channels": 3 * config.patch**2,
    "patch_size": None if config.patch == 1 else config.patch,
    "scale_factor_temporal": config.compression[0],
    "scale_factor_spatial": config.compression[1],
    "latents_mean": mean.tolist(),
    "latents_std": np.sqrt(square - mean**2).tolist(),
  }


def params_from_reference(
  config: wan.WanConfig, arrays: Arrays | tensors.Tensors
) -> Arrays:
  """Our parameters of diffusers' arrays.

  Raises:
    ValueError: an array is missing, left over, or of another shape; names it.
  """
  expected, _ = Skeleton.of(config.make).abstract
  params, left = {}, dict(arrays)
  for name, ours in expected.items():
    reference = reference_name(name)
    if reference not in left:
      raise ValueError(f"{WEIGHTS} has no array {reference!r}, which the config needs")
    value = np.asarray(left.pop(reference), np.float32)
    if value.ndim > 1 and not name.endswith("scale"):
      value = np.moveaxis(value, (0, 1), (-1, -2))
    if _without_ones(value.shape) != _without_ones(ours.shape):
      raise ValueError(f"{reference!r} has shape {value.shape}, not {ours.shape}")
    params[name] = value.reshape(ours.shape)
  if left:
    raise ValueError(f"{WEIGHTS} has arrays that the config does not: {sorted(left)[:3]}")
  return params


def params_to_reference(config: wan.WanConfig, params: Arrays) -> Arrays:
  """Diffusers' arrays of our parameters, the inverse of `params_from_reference`."""
  arrays = {}
  for name, value in params.items():
    value = np.asarray(value)
    *module, kind = name.split(".")
    if kind == "kernel":
      # What we call a linear layer is a 1x1 convolution there, of 2-D or 3-D.
      is_2d = value.ndim == 4 or module[-1] in ("to_qkv", "proj")
      dims = 4 if is_2d else 5
      value = value.reshape((1,) * (dims - value.ndim) + value.shape)
      value = np.moveaxis(value, (-1, -2), (0, 1))
    elif kind == "scale":
      # Of a frame's attention [C, 1, 1], elsewhere [C, 1, 1, 1].
      value = value.reshape(-1, *(1,) * (2 if "attentions" in module else 3))
    arrays[reference_name(name)] = np.ascontiguousarray(value)
  return arrays


def save(
  folder: str | pathlib.Path, config: wan.WanConfig, params: Arrays, other: Arrays
) -> None:
  """Writes a folder that diffusers' `AutoencoderKLWan.from_pretrained` takes."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  described = config_to_reference(config, other)
  (folder / "config.json").write_text(json.dumps(described, indent=1))
  arrays = params_to_reference(config, params)
  named = {name: tensors.of_array(x) for name, x in arrays.items()}
  safetensors_files.write(folder, named, stem=_STEM, shard_bytes=1 << 62)


def reference_name(name: str) -> str:
  """Diffusers' name of our parameter."""
  module, _, kind = name.rpartition(".")
  return f"{module}.{_TO_REFERENCE[kind]}"


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
  return tuple(n for n in shape if n != 1)
