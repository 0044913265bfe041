"""A source written in another format. Tensors pass through one piece at a time.

  safetensors  OUT/config.json, model.safetensors
  orbax        OUT/config.json, checkpoints/STEP: a workdir to sample or warm-start from
  diffusers    a codec: OUT/config.json, diffusion_pytorch_model.safetensors
               a denoiser: a WanPipeline's folder: transformer/, scheduler/, vae/;
               transformer/sora_jax/ has what diffusers has no place for
  stablehlo    as safetensors, with the programs (stablehlo.py) and example.py

Every folder also gets README.md (card.py) and manifest.json, and appears whole or not
at all.

Used by: sora_jax/convert.py.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable

import ml_dtypes
import numpy as np

from sora_jax import configlib, sharding
from sora_jax.export import card, stablehlo
from sora_jax.export.sources import EXPERTS, Source
from sora_jax.models import wan_weights
from sora_jax.training import config as train_config
from sora_jax.training import optimizer
from sora_jax.vae import wan
from sora_jax.vae import wan_weights as wan_vae
from sora_jax.weights import folders, orbax_files, safetensors_files
from sora_jax.weights.tensors import Tensor, Tensors

DTYPES = {
  "float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16
}  # fmt: skip
_DIFFUSERS = "0.35.0"  # the first version that reads all of what is written


@dataclasses.dataclass(kw_only=True)
class Options:
  """How to write."""

  dtype: str = ""  # of floating-point tensors; empty keeps what they have
  shard_bytes: int = 5 << 30
  licence: str = ""
  progress: Callable[[int], None] = lambda count: None
  low_noise: Source | None = None  # the second expert of a diffusers pipeline
  text_encoder: str = ""  # folder with text_encoder/ and tokenizer/ for such a pipeline


def write(kind: str, source: Source, out: str | pathlib.Path, options: Options) -> None:
  """Writes `source` to the new folder `out`.

  Raises:
    ValueError: the format has no place for this model, `out` exists, or it could not be
      written. Nothing is left under `out` then.
  """
  with folders.creating(out) as folder:
    TARGETS[kind](_cast(source, options.dtype), folder, options)
    (folder / "README.md").write_text(card.text(source, kind, options.licence))
    folders.write_manifest(folder)


def size(source: Source, options: Options) -> int:
  """Bytes of all tensors that `write` will write, for a progress bar."""
  experts = [source, *([options.low_noise] if options.low_noise else [])]
  cast = [_cast(expert, options.dtype) for expert in experts]
  return sum(x.nbytes for s in cast for x in (*s.params.values(), *s.other.values()))


def _cast(source: Source, dtype: str) -> Source:
  def to(arrays: Tensors) -> Tensors:
    return {k: _as(x, dtype) for k, x in arrays.items()}

  return source if not dtype else dataclasses.replace(
    source, params=to(source.params), other=to(source.other)
  )


def _as(tensor: Tensor, dtype: str) -> Tensor:
  floating = tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16"
  return tensor.astype(DTYPES[dtype]) if floating else tensor


# ---- Our own formats ----------------------------------------------------------------


def _write_safetensors(source: Source, folder: pathlib.Path, options: Options) -> None:
  described = {
    "objective": source.objective, "codec": source.codec, "step": source.step,
    "origin": source.origin,
  }  # fmt: skip
  (folder / "config.json").write_text(configlib.to_json(described))
  safetensors_files.write(
    folder, {**source.params, **source.other}, stem="model",
    shard_bytes=options.shard_bytes, progress=options.progress,
  )  # fmt: skip


def _write_orbax(source: Source, folder: pathlib.Path, options: Options) -> None:
  config = train_config.TrainConfig(
    objective=source.objective, data=None, mesh=sharding.MeshConfig(),
    optimizer=optimizer.AdamW(lr=optimizer.Cosine(peak=1e-4)), num_steps=source.step,
    codec=source.codec,
  )  # fmt: skip
  (folder / "config.json").write_text(configlib.to_json(config))
  items = {"params": source.params} | ({"other": source.other} if source.other else {})
  step = folder / "checkpoints" / str(source.step)
  step.parent.mkdir()
  orbax_files.write(step, items, {"step": source.step, "data": {}})
  folders.write_manifest(step)
  options.progress(sum(x.nbytes for item in items.values() for x in item.values()))


# ---- Diffusers ----------------------------------------------------------------------


def _write_diffusers(source: Source, folder: pathlib.Path, options: Options) -> None:
  if source.is_codec:
    _write_codec(source, folder)
    return
  experts = {"high": source, "low": options.low_noise}
  for name, expert in experts.items():
    if expert is not None:
      _write_transformer(_cast(expert, options.dtype), folder / EXPERTS[name], options)
  _write_pipeline(source, folder, options)
  if source.codec and wan_vae.is_wan(source.codec):
    shutil.copytree(source.codec, folder / "vae")
  for part in ("text_encoder", "tokenizer") if options.text_encoder else ():
    if not (pathlib.Path(options.text_encoder) / part).is_dir():
      raise ValueError(f"--text_encoder={options.text_encoder} has no folder {part}")
    shutil.copytree(pathlib.Path(options.text_encoder) / part, folder / part)


def _write_transformer(source: Source, folder: pathlib.Path, options: Options) -> None:
  model = source.objective.model
  described = wan_weights.config_to_reference(model.backbone)
  if not source.takes_embeddings:
    raise ValueError(
      f"a text encoder of our own ({type(model.text).__name__}) has no place in diffusers' "
      "WanPipeline: export it with --to=safetensors or --to=stablehlo"
    )
  folder.mkdir()
  _write_json(folder / "config.json", {"_diffusers_version": _DIFFUSERS, **described})
  safetensors_files.write(
    folder, wan_weights.to_reference(model.backbone, source.params),
    stem=wan_weights.STEM, shard_bytes=options.shard_bytes, progress=options.progress,
  )  # fmt: skip
  ours = folder / "sora_jax"
  ours.mkdir()
  rest = {k: x for k, x in source.params.items() if not k.startswith(wan_weights.PREFIX)}
  _write_safetensors(dataclasses.replace(source, params=rest), ours, options)


def _write_pipeline(source: Source, folder: pathlib.Path, options: Options) -> None:
  objective = source.objective
  experts, has_text = options.low_noise is not None, bool(options.text_encoder)
  has_codec = bool(source.codec) and wan_vae.is_wan(source.codec)
  transformer = ["diffusers", wan_weights.CLASS]
  _write_json(folder / "model_index.json", {
    "_class_name": "WanPipeline",
    "_diffusers_version": _DIFFUSERS,
    "boundary_ratio": objective.noise_range[0] if experts else None,
    # Known frames at noise level 0: Wan 2.2's 5B, whose latents have 48 channels.
    "expand_timesteps": objective.model.backbone.latent_channels == 48,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"] if has_text else [None, None],
    "tokenizer": ["transformers", "T5TokenizerFast"] if has_text else [None, None],
    "transformer": transformer,
    "transformer_2": transformer if experts else [None, None],
    "vae": ["diffusers", "AutoencoderKLWan"] if has_codec else [None, None],
  })  # fmt: skip
  (folder / "scheduler").mkdir()
  _write_json(folder / "scheduler" / "scheduler_config.json", {
    "_class_name": "UniPCMultistepScheduler",
    "_diffusers_version": _DIFFUSERS,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": objective.shift.shift,
    "solver_order": 2,
    "solver_type": "bh2",
    "final_sigmas_type": "zero",
    "timestep_spacing": "linspace",
  })  # fmt: skip


def _write_codec(source: Source, folder: pathlib.Path) -> None:
  config = source.objective.model
  if not isinstance(config, wan.WanConfig):
    raise ValueError(
      f"a {type(config).__name__} has no counterpart in diffusers, only WanConfig: export "
      "it with --to=safetensors or --to=stablehlo"
    )
  params, other = (
    {name.removeprefix("codec."): np.asarray(x) for name, x in arrays.items()}
    for arrays in (source.params, source.other)
  )
  wan_vae.save(folder, config, params, other)


def _write_json(path: pathlib.Path, value: dict) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n")


def _write_stablehlo(source: Source, folder: pathlib.Path, options: Options) -> None:
  _write_safetensors(source, folder, options)
  stablehlo.write(source, folder)


TARGETS = {
  "safetensors": _write_safetensors,
  "orbax": _write_orbax,
  "diffusers": _write_diffusers,
  "stablehlo": _write_stablehlo,
}
