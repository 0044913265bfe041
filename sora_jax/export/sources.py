"""A trained model, opened: what it is, and its tensors, of which none is read yet.

  workdir      a run: config.json, checkpoints/STEP (params or their average, other)
  safetensors  what --to=safetensors wrote: config.json, model.safetensors
  diffusers    a WanPipeline's folder, or the folder of one transformer or autoencoder

Used by: targets.py, stablehlo.py, warm_start.py, sora_jax/convert.py.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from sora_jax import configlib
from sora_jax.diffusion import process
from sora_jax.models import text_to_video, wan_weights
from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import autoencoder, diffusion, known_masks
from sora_jax.text import stored, tokenizers
from sora_jax.training import checkpoint, metrics
from sora_jax.vae import wan_weights as wan_vae
from sora_jax.weights import folders, orbax_files, safetensors_files, tensors
from sora_jax.weights.tensors import Tensors

EXPERTS = {"high": "transformer", "low": "transformer_2"}
# Wan trains on captions followed by zeros up to this many tokens.
_WAN_TEXT = 512
_CODEC = "codec."  # of the codec's arrays among those of its objective


@dataclasses.dataclass(kw_only=True)
class Source:
  """A model whose tensors can be read."""

  objective: diffusion.VideoDiffusion | autoencoder.AutoencoderObjective
  params: Tensors
  other: Tensors
  step: int = 0
  codec: str = ""  # folder of the codec that made its latents
  origin: dict[str, Any] = dataclasses.field(default_factory=dict)  # for the model card

  @property
  def is_codec(self) -> bool:
    return isinstance(self.objective, autoencoder.AutoencoderObjective)

  @property
  def takes_embeddings(self) -> bool:
    """Whether captions come as embeddings, not as token ids; of a denoiser."""
    return isinstance(self.objective.model.text, stored.StoredTextConfig)

  def checked(self, where: str) -> "Source":
    """Itself, when the tensors are those that its config makes."""
    expected = Skeleton.of(self.objective.make).abstract
    for like, found in zip(expected, (self.params, self.other)):
      tensors.check(like, found, where=where)
    return self


def guess(path: str | pathlib.Path) -> str:
  """The format of a folder.

  Raises:
    ValueError: it is none of ours.
  """
  path = pathlib.Path(path)
  if (path / "checkpoints").is_dir():
    return "workdir"
  if (path / "model_index.json").is_file():
    return "diffusers"
  described = _json(path / "config.json")
  if "_class_name" in described:
    return "diffusers"
  if "objective" in described:
    return "safetensors"
  raise ValueError(f"{path} is no workdir, no folder of ours and none of diffusers'")


def open_source(
  path: str | pathlib.Path, kind: str = "", *, ema: bool = True, expert: str = "high"
) -> Source:
  """The model at `path`.

  Args:
    path: a folder.
    kind: one of `OPENERS`; told from the folder where it is empty.
    ema: the average over steps, where a run kept one.
    expert: which of a pipeline's two transformers, where it has two.

  Raises:
    ValueError: no model there, a damaged file, or tensors that do not fit the config.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise ValueError(f"{path} is not a folder" + (
      ": give the folder that holds it" if path.exists() else " (it does not exist)"
    ))  # fmt: skip
  folders.verify(path)
  return OPENERS[kind or guess(path)](path, ema, expert).checked(str(path))


def _open_workdir(path: pathlib.Path, ema: bool, expert: str) -> Source:
  del expert
  text = (path / "config.json").read_text()
  step = checkpoint.newest_step(path)
  folder = path / "checkpoints" / str(step)
  averaged = ema and (folder / "ema").is_dir()
  folders.verify(folder, within=("ema" if averaged else "params", "other"))
  rows = metrics.read(path)
  return _without_adversary(Source(
    objective=configlib.from_json(text, field="objective"),
    params=orbax_files.read(folder / ("ema" if averaged else "params")),
    other=orbax_files.read(folder / "other") if (folder / "other").is_dir() else {},
    step=step, codec=configlib.from_json(text, field="codec"),
    origin={
      "from": "a run of sora_jax", "weights": "moving average" if averaged else "raw",
      "data": json.loads(text).get("data") or {}, "metrics": rows[-1] if rows else {},
    },
  ))  # fmt: skip


def _without_adversary(source: Source) -> Source:
  """A codec without what it was trained against."""
  if not source.is_codec:
    return source
  bare = autoencoder.AutoencoderObjective(model=source.objective.model)
  of_codec = lambda arrays: {k: v for k, v in arrays.items() if k.startswith(_CODEC)}  # noqa: E731
  return dataclasses.replace(
    source, objective=bare, params=of_codec(source.params), other=of_codec(source.other)
  )


def _open_safetensors(path: pathlib.Path, ema: bool, expert: str) -> Source:
  del ema, expert
  described = _json(path / "config.json")
  text = (path / "config.json").read_text()
  arrays = safetensors_files.read(path)
  objective = configlib.from_json(text, field="objective")
  params, _ = Skeleton.of(objective.make).abstract
  return Source(
    objective=objective,
    params={name: x for name, x in arrays.items() if name in params},
    other={name: x for name, x in arrays.items() if name not in params},
    step=int(described.get("step", 0)), codec=described.get("codec", ""),
    origin=described.get("origin", {}),
  )  # fmt: skip


def _open_diffusers(path: pathlib.Path, ema: bool, expert: str) -> Source:
  del ema
  index = path / "model_index.json"
  if not index.is_file():
    described = _json(path / "config.json")
    if described.get("_class_name") == "AutoencoderKLWan":
      return _open_wan_codec(path)
    return _open_transformer(path, shift=3.0, noise_range=(0.0, 1.0))
  described = _json(index)
  boundary = described.get("boundary_ratio")
  noise_range = (0.0, 1.0)
  if boundary is not None:
    noise_range = (boundary, 1.0) if expert == "high" else (0.0, boundary)
  elif expert == "low":
    raise ValueError(f"{path} has one transformer for all noise levels: leave out --expert")
  scheduler = path / "scheduler" / "scheduler_config.json"
  settings = _json(scheduler) if scheduler.is_file() else {}
  shift = settings.get("flow_shift", settings.get("shift", 3.0))
  source = _open_transformer(
    path / EXPERTS[expert], shift=float(shift), noise_range=noise_range
  )
  codec = path / "vae"
  return dataclasses.replace(source, codec=str(codec) if codec.is_dir() else "")


def _open_transformer(
  path: pathlib.Path, *, shift: float, noise_range: tuple[float, float]
) -> Source:
  """One `WanTransformer3DModel`, with our part of it where we wrote it (targets.py)."""
  backbone = wan_weights.config_from_reference(_json(path / "config.json"))
  found = safetensors_files.read(path)
  params = wan_weights.from_reference(backbone, found, where=str(path))
  origin = {"from": f"diffusers' {wan_weights.CLASS}"}
  ours = path / "sora_jax"
  if (ours / "config.json").is_file():
    source = _open_safetensors_part(ours, dict(params))
    if source.objective.model.backbone.token_dim == backbone.token_dim:
      return source
  tokenizer = tokenizers.StoredEmbeddings(max_tokens=_WAN_TEXT, padded=_WAN_TEXT)
  objective = diffusion.VideoDiffusion(
    model=text_to_video.TextToVideoConfig(
      backbone=backbone,
      text=stored.StoredTextConfig(tokenizer=tokenizer, width=backbone.text_dim),
    ),
    times=process.LogitNormal(), shift=process.Shift(shift=shift),
    masks=known_masks.KnownMasks(), noise_range=noise_range,
  )  # fmt: skip
  # What diffusers does not know: the embedding of a dropped caption. Zeros, as our own.
  null = Skeleton.of(objective.make).abstract[0]["text.null"]
  dtype = next(iter(params.values())).dtype
  zeros = tensors.zeros(null.shape, dtype)
  return Source(
    objective=objective, params={**params, "text.null": zeros}, other={}, origin=origin
  )


def _open_safetensors_part(folder: pathlib.Path, backbone: dict) -> Source:
  source = _open_safetensors(folder, True, "high")
  return dataclasses.replace(source, params={**backbone, **source.params})


def _open_wan_codec(path: pathlib.Path) -> Source:
  config, params, other = wan_vae.load(path)
  named = lambda arrays: {_CODEC + k: tensors.of_array(x) for k, x in arrays.items()}  # noqa: E731
  return Source(
    objective=autoencoder.AutoencoderObjective(model=config), params=named(params),
    other=named(other), origin={"from": "diffusers' AutoencoderKLWan"},
  )  # fmt: skip


def _json(path: pathlib.Path) -> dict:
  if not path.is_file():
    raise ValueError(f"{path} does not exist")
  try:
    found = json.loads(path.read_text())
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} is not JSON: {error}") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path} is not a JSON object")
  return found


OPENERS: dict[str, Callable[[pathlib.Path, bool, str], Source]] = {
  "workdir": _open_workdir, "safetensors": _open_safetensors, "diffusers": _open_diffusers,
}  # fmt: skip
