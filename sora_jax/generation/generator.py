"""Prompts -> videos: a packed canvas of noise, the sampler, the codec's decoder.

Requests of different sizes share rows and are denoised together.

Shapes: as in sora_jax/api.py.
Used by: sora_jax/sample.py, sora_jax/demo.py.
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sora_jax import api, configlib, distributed, sharding
from sora_jax.diffusion import guidance, samplers
from sora_jax.generation import canvas as canvas_lib
from sora_jax.generation import codec as codec_lib
from sora_jax.models import text_to_video
from sora_jax.nn import modulation, patches
from sora_jax.nn.skeleton import Arrays, Skeleton
from sora_jax.objectives import diffusion
from sora_jax.text import pretrained, tokenizers
from sora_jax.training import checkpoint

_ROWS_AT_ONCE = 16


# Captions -> token ids or embeddings of each.
Embed = Callable[[list[str]], list[np.ndarray]]


class Generator:
  """A trained text-to-video model with its codec."""

  def __init__(
    self, workdir: str | pathlib.Path, *, codec: str | None = None, ema: bool = True,
    text_encoder: str | Embed | None = None, low_noise: str | pathlib.Path | None = None,
    mesh: sharding.MeshConfig | None = None,
  ):  # fmt: skip
    """Loads the newest checkpoint of `workdir`.

    Args:
      workdir: of a text-to-video run.
      codec: workdir of the codec, where it is not the one named in the run's config.
      ema: use the moving average of the parameters.
      text_encoder: where the captions of the training data were embedded beforehand, the
        encoder's folder, or a function that embeds them.
      low_noise: workdir of the expert for the noise levels below `workdir`'s.
      mesh: the devices that share parameters and rows, of all processes; without one
        this process's first device does everything.

    Raises:
      ValueError: one of them is missing or something else.
    """
    self.workdir = pathlib.Path(workdir)
    text = _config_text(self.workdir)
    self.objective = _objective(self.workdir, text)
    named = codec or configlib.from_json(text, field="codec")
    if not named:
      raise ValueError(f"{workdir} names no codec (config.codec); give --codec=WORKDIR")
    self._embed = self._prompt_encoder(text_encoder)
    self.codec = codec_lib.Codec(named)
    self._mesh = mesh.make() if mesh else None
    self._skeleton = Skeleton.of(self.objective.make)
    self._params, self._other, self.step = self._restore(self.workdir, ema)
    self._low_noise = None
    if low_noise:
      low_noise = pathlib.Path(low_noise)
      self._check_experts(_objective(low_noise, _config_text(low_noise)), low_noise)
      self._low_noise = self._restore(low_noise, ema)[0]

  def _restore(self, workdir: pathlib.Path, ema: bool) -> tuple:
    abstract = self._skeleton.abstract
    if self._mesh is None:
      placed = sharding.on_one_device(abstract)
    else:
      axes = self._skeleton.logical_axes()
      layouts = [sharding.tree_shardings(self._mesh, *pair) for pair in zip(axes, abstract)]
      placed = sharding.laid_out(abstract, tuple(layouts))
    return checkpoint.restore_model(workdir, placed, ema=ema)

  def _check_experts(self, low: diffusion.VideoDiffusion, workdir: pathlib.Path) -> None:
    boundary, end = self.objective.noise_range[0], low.noise_range[1]
    if low.model != self.objective.model or boundary != end:
      raise ValueError(
        f"{workdir} is not the low-noise expert of {self.workdir}: the models must be the "
        f"same, and its noise levels end at {end:g} where the others begin at {boundary:g}"
      )

  def _prompt_encoder(self, encoder: str | Embed | None) -> Embed:
    tokenizer = self.objective.model.text.tokenizer
    stored = isinstance(tokenizer, tokenizers.StoredEmbeddings)
    if stored != bool(encoder):
      raise ValueError(
        f"{self.workdir} was trained on "
        + ("captions embedded beforehand: give the encoder's folder, --text_encoder"
           if stored else "its own text encoder: leave out --text_encoder")
      )  # fmt: skip
    if not stored:
      return lambda prompts: [tokenizer.encode(prompt) for prompt in prompts]
    if not callable(encoder):
      encoder = pretrained.PretrainedText(encoder, max_tokens=tokenizer.max_tokens).encode
    return lambda prompts: [tokenizer.fit(x) for x in encoder(prompts)]

  @property
  def grid(self) -> tuple[int, int, int]:
    """Frames (beyond the first) and pixels per token along t, h, w."""
    backbone = self.objective.model.backbone
    return tuple(c * p for c, p in zip(self.codec.config.compression, backbone.patch))

  def generate(
    self, requests: list[canvas_lib.Request], **options: Any
  ) -> list[np.ndarray]:
    """uint8 frames [T, H, W, 3] of each request; options of `generate_latents`."""
    return self.codec.decode(self.generate_latents(requests, **options))

  def generate_latents(
    self, requests: list[canvas_lib.Request], *, sampler: samplers.Sampler,
    guidance_scale: float | tuple[float, float], negative_prompt: str | None = None,
    tokens_per_row: int = 128, progress: Callable[[int, int], None] | None = None,
  ) -> list[np.ndarray]:  # fmt: skip
    """As `generate`, before the decoder: latents [t, h, w, Z] of each request.

    Args:
      requests: sizes must be on the grid (`canvas.round_to_grid`).
      sampler: how to integrate.
      guidance_scale: 1 is none; of two experts, those of high and of low noise.
      negative_prompt: what guidance leads away from; the dropped caption if None.
      tokens_per_row: length of the packed rows, at least.
      progress: called with the rows done and their number, after each batch of them.
    """
    backbone = self.objective.model.backbone
    sizes = [self._size(request) for request in requests]

    def packed(prompts: list[str]) -> tuple[api.PackedTokens, list[canvas_lib.Place]]:
      return canvas_lib.pack(
        requests, sizes, captions=self._embed(prompts), token_dim=backbone.token_dim,
        tokens_per_row=tokens_per_row,
      )  # fmt: skip

    canvas, places = packed([request.prompt for request in requests])
    without = canvas.replace(text_dropped=np.ones_like(canvas.text_dropped))
    if negative_prompt is not None:
      without, _ = packed([negative_prompt] * len(requests))
    if not isinstance(guidance_scale, tuple):
      guidance_scale = (guidance_scale, guidance_scale)
    x0_BLP = self._denoise_all(sampler, guidance_scale, (canvas, without), progress)
    return [
      patches.unpatchify(x0_BLP[place.row, place.span], place.size, backbone.patch)
      for place in places
    ]

  def _denoise_all(self, sampler, guidance_scale, canvases, progress) -> np.ndarray:
    """The clean tokens of all rows, some at once."""
    rows, num = [], canvases[0].tokens.shape[0]
    mesh = self._mesh
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
      ways = sharding.ways("batch")
      at_once = ways * max(1, _ROWS_AT_ONCE // ways)
      for start in range(0, num, at_once):
        count = min(at_once, num - start)
        # The last batch is filled up with rows of the canvas: no program of its own.
        size = at_once if start else -(-count // ways) * ways
        index = np.arange(start, start + size) % num
        some = jax.tree.map(lambda x, index=index: x[index], canvases)
        if mesh:
          some = distributed.from_everywhere(mesh, some)
        x0_BLP = denoise(
          self._skeleton, self.objective, sampler, guidance_scale,
          self._params, self._other, *some, self._low_noise,
        )  # fmt: skip
        rows.append(distributed.to_everywhere(x0_BLP)[:count])
        if progress is not None:
          progress(count, num)
    return np.concatenate(rows)

  def _size(self, request: canvas_lib.Request) -> tuple[int, int, int]:
    latents = self.codec.config.latent_size(
      request.frames, request.height, request.width
    )
    return patches.grid(latents, self.objective.model.backbone.patch)


def _config_text(workdir: pathlib.Path) -> str:
  path = workdir / "config.json"
  if not path.exists():
    raise ValueError(f"{workdir} has no config.json: it is not a run's workdir")
  return configlib.read(path)


def _objective(workdir: pathlib.Path, text: str) -> diffusion.VideoDiffusion:
  objective = configlib.from_json(text, field="objective")
  if not isinstance(objective, diffusion.VideoDiffusion):
    raise ValueError(
      f"{workdir} holds a {type(objective).__name__}, not a text-to-video model"
    )
  return objective


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def denoise(
  skeleton: Skeleton, objective: diffusion.VideoDiffusion, sampler: samplers.Sampler,
  guidance_scale: tuple[float, float], params: Arrays, other: Arrays,
  canvas: api.PackedTokens, without: api.PackedTokens, low_noise: Arrays | None,
) -> jax.Array:  # fmt: skip
  """The clean tokens [B, L, P] that a canvas of noise flows to.

  Args:
    skeleton, objective: the model.
    sampler: how to integrate.
    guidance_scale: of `params` and of `low_noise`.
    params, other: the model's arrays.
    canvas: noise, known tokens, captions.
    without: the same canvas with the captions that guidance leads away from.
    low_noise: parameters for noise levels below the objective's range, or None.
  """
  num_segments = canvas.sizes.shape[1]
  num_tokens_BS = jnp.prod(canvas.sizes, -1)
  level_BL = modulation.level_index(canvas.segment_ids, canvas.known, num_segments)

  def expand(t_BS: jax.Array) -> jax.Array:
    return modulation.gather(modulation.levels(t_BS)[..., None], level_BL)

  def guided(params: Arrays, scale: float) -> api.Denoiser:
    model: text_to_video.TextToVideo = skeleton.merge(params, other)

    def velocity(canvas: api.PackedTokens) -> api.Denoiser:
      text_BMD = model.encode_text(canvas)

      def apply(xt_BLP: jax.Array, t_BS: jax.Array) -> jax.Array:
        xt_BLP = xt_BLP.astype(objective.compute_dtype)
        return model.backbone(xt_BLP, t_BS, text_BMD, canvas)

      return apply

    return guidance.classifier_free(velocity(canvas), velocity(without), scale)

  denoiser = guided(params, guidance_scale[0])
  if low_noise is not None:
    denoiser = guidance.by_noise_level(
      denoiser, guided(low_noise, guidance_scale[1]), objective.noise_range[0], expand
    )
  return samplers.integrate(
    sampler, denoiser, canvas.tokens,
    shift=lambda t: objective.shift(t, num_tokens_BS), expand=expand,
  )  # fmt: skip
