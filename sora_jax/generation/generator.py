"""Prompts -> videos: a packed canvas of noise, the sampler, the codec's decoder.

Requests of different sizes share rows and are denoised together.

Shapes: as in sora_jax/api.py.
Used by: sora_jax/sample.py, sora_jax/demo.py.
"""

import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sora_jax import api, configlib
from sora_jax.diffusion import guidance, samplers
from sora_jax.generation import canvas as canvas_lib
from sora_jax.generation import codec as codec_lib
from sora_jax.models import text_to_video
from sora_jax.nn import modulation, patches
from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import diffusion
from sora_jax.text import pretrained, tokenizers
from sora_jax.training import checkpoint

_ROWS_AT_ONCE = 16


class Generator:
  """A trained text-to-video model with its codec."""

  def __init__(
    self, workdir: str | pathlib.Path, *, codec: str | None = None, ema: bool = True,
    text_encoder: str | None = None,
  ):  # fmt: skip
    """Loads the newest checkpoint of `workdir`.

    Args:
      workdir: of a text-to-video run.
      codec: workdir of the codec, where it is not the one named in the run's config.
      ema: use the moving average of the parameters.
      text_encoder: folder of the encoder that embedded the captions of the training
        data, where that was done beforehand.

    Raises:
      ValueError: one of the two is missing or something else.
    """
    self.workdir = pathlib.Path(workdir)
    text = self._config_text()
    self.objective = configlib.from_json(text, field="objective")
    if not isinstance(self.objective, diffusion.VideoDiffusion):
      raise ValueError(
        f"{workdir} holds a {type(self.objective).__name__}, not a text-to-video model"
      )
    named = codec or configlib.from_json(text, field="codec")
    if not named:
      raise ValueError(f"{workdir} names no codec (config.codec); give --codec=WORKDIR")
    self._embed = self._prompt_encoder(text_encoder)
    self.codec = codec_lib.Codec(named)
    self._skeleton = Skeleton.of(self.objective.make)
    self._params, self._other, self.step = checkpoint.restore_model(
      self.workdir, codec_lib.on_one_device(self._skeleton.abstract), ema=ema
    )

  def _prompt_encoder(
    self, folder: str | None
  ) -> Callable[[list[str]], list[np.ndarray]]:
    tokenizer = self.objective.model.text.tokenizer
    stored = isinstance(tokenizer, tokenizers.StoredEmbeddings)
    if stored != bool(folder):
      raise ValueError(
        f"{self.workdir} was trained on "
        + ("captions embedded beforehand: give the encoder's folder, --text_encoder"
           if stored else "its own text encoder: leave out --text_encoder")
      )  # fmt: skip
    if stored:
      return pretrained.PretrainedText(folder, max_tokens=tokenizer.max_tokens).encode
    return lambda prompts: [tokenizer.encode(prompt) for prompt in prompts]

  def _config_text(self) -> str:
    path = self.workdir / "config.json"
    if not path.exists():
      raise ValueError(f"{self.workdir} has no config.json: it is not a run's workdir")
    return path.read_text()

  @property
  def grid(self) -> tuple[int, int, int]:
    """Frames (beyond the first) and pixels per token along t, h, w."""
    backbone = self.objective.model.backbone
    return tuple(c * p for c, p in zip(self.codec.config.compression, backbone.patch))

  def generate(
    self, requests: list[canvas_lib.Request], *,
    sampler: samplers.Euler | samplers.Heun, guidance_scale: float,
    tokens_per_row: int = 128, progress=None,
  ) -> list[np.ndarray]:  # fmt: skip
    """uint8 frames [T, H, W, 3] of each request, in their order.

    Args:
      requests: sizes must be on the grid (`canvas.round_to_grid`).
      sampler: how to integrate.
      guidance_scale: 1 is none.
      tokens_per_row: length of the packed rows, at least.
      progress: called with the number of rows done, after each batch of them.
    """
    latents = self.generate_latents(
      requests, sampler=sampler, guidance_scale=guidance_scale,
      tokens_per_row=tokens_per_row, progress=progress,
    )  # fmt: skip
    return self.codec.decode(latents)

  def generate_latents(
    self, requests, *, sampler, guidance_scale: float, tokens_per_row: int, progress
  ) -> list[np.ndarray]:
    """As `generate`, before the decoder: latents [t, h, w, Z] of each request."""
    backbone = self.objective.model.backbone
    sizes = [self._size(request) for request in requests]
    canvas, places = canvas_lib.pack(
      requests, sizes, captions=self._embed([request.prompt for request in requests]),
      token_dim=backbone.token_dim, tokens_per_row=tokens_per_row,
    )  # fmt: skip
    rows, num = [], canvas.tokens.shape[0]
    for start in range(0, num, _ROWS_AT_ONCE):
      count = min(_ROWS_AT_ONCE, num - start)
      # The last batch is filled up with rows of the canvas: no program of its own.
      index = np.arange(start, start + (_ROWS_AT_ONCE if start else count)) % num
      batch = jax.tree.map(lambda x, index=index: x[index], canvas)
      x0_BLP = denoise(
        self._skeleton, self.objective, sampler, guidance_scale,
        self._params, self._other, batch,
      )  # fmt: skip
      rows.append(np.asarray(x0_BLP)[:count])
      if progress is not None:
        progress(count, num)
    x0_BLP = np.concatenate(rows)
    return [
      patches.unpatchify(x0_BLP[place.row, place.span], place.size, backbone.patch)
      for place in places
    ]

  def _size(self, request: canvas_lib.Request) -> tuple[int, int, int]:
    latents = self.codec.config.latent_size(
      request.frames, request.height, request.width
    )
    return patches.grid(latents, self.objective.model.backbone.patch)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def denoise(
  skeleton: Skeleton, objective: diffusion.VideoDiffusion,
  sampler: samplers.Euler | samplers.Heun, guidance_scale: float,
  params, other, canvas: api.PackedTokens,
) -> jax.Array:  # fmt: skip
  """The clean tokens [B, L, P] that a canvas of noise flows to."""
  model: text_to_video.TextToVideo = skeleton.merge(params, other)
  num_segments = canvas.sizes.shape[1]
  num_tokens_BS = jnp.prod(canvas.sizes, -1)
  level_BL = modulation.level_index(canvas.segment_ids, canvas.known, num_segments)

  def velocity(canvas: api.PackedTokens) -> api.Denoiser:
    text_BMD = model.encode_text(canvas)

    def apply(xt_BLP: jax.Array, t_BS: jax.Array) -> jax.Array:
      xt_BLP = xt_BLP.astype(objective.compute_dtype)
      return model.backbone(xt_BLP, t_BS, text_BMD, canvas)

    return apply

  without_text = canvas.replace(text_dropped=jnp.ones_like(canvas.text_dropped))
  return samplers.integrate(
    sampler,
    guidance.classifier_free(velocity(canvas), velocity(without_text), guidance_scale),
    canvas.tokens,
    shift=lambda t: objective.shift(t, num_tokens_BS),
    expand=lambda t_BS: modulation.gather(
      modulation.levels(t_BS)[..., None], level_BL
    ),
  )
