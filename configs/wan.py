"""Published Wan weights, trained further on packed clips of native sizes.

  python -m sora_jax.train --config=configs/wan.py:t2v-1.3b --workdir=/gcs/run \\
      --config.warm_start.path=Wan2.1-T2V-1.3B-Diffusers \\
      --config.codec=Wan2.1-T2V-1.3B-Diffusers/vae --config.data.path=LATENTS

The argument names the model; everything else is configs/t2v.py's 480p or 720p stage of
that size, with captions as Wan was trained on them (512 embeddings, zeros behind the
text) and a lower learning rate:

  t2v-1.3b, t2v-14b    Wan 2.1 text to video
  i2v-14b              Wan 2.1 image to video: 20 conditioning channels, image embeddings.
                       It loads, converts and samples through `PackedTokens.condition`;
                       data for training it is yours to bring (a BatchSource)
  ti2v-5b              Wan 2.2, whose first frame may be given: a noise level per token
  a14b-high, a14b-low  Wan 2.2's two experts, split at noise level 0.875: two runs, then
                       sample --workdir=HIGH --low_noise_workdir=LOW

After the run: python -m sora_jax.convert --source=RUN --to=diffusers --out=DIR.
Sizes are those of the files' config.json (arXiv:2503.20314).
"""

import dataclasses

from configs import t2v
from sora_jax.diffusion import process
from sora_jax.export import warm_start
from sora_jax.text import stored, tokenizers
from sora_jax.training import optimizer
from sora_jax.training.config import TrainConfig

_TEXT = tokenizers.StoredEmbeddings(max_tokens=512, padded=512)
_CLIPS = 16  # in a row; each brings 512 text embeddings
_BOUNDARY = 0.875  # between the experts of A14B

# Size and stage of configs/t2v.py, the shift of noise levels, and what else differs.
MODELS = {
  "t2v-1.3b": ("1.3b-480p", 3.0, {}),
  "t2v-14b": ("14b-720p", 5.0, {}),
  "i2v-14b": ("14b-720p", 5.0, {"condition_channels": 20, "image_dim": 1280}),
  "ti2v-5b": ("5b-720p", 5.0, {}),
  "a14b-high": ("14b-720p", 5.0, {"noise_range": (_BOUNDARY, 1.0)}),
  "a14b-low": ("14b-720p", 5.0, {"noise_range": (0.0, _BOUNDARY)}),
}


def get_config(arg: str = "t2v-1.3b") -> TrainConfig:
  """One of `MODELS`."""
  if arg not in MODELS:
    raise ValueError(f"configs/wan.py takes one of {sorted(MODELS)}, not {arg!r}")
  size, shift, changes = MODELS[arg]
  config = t2v.get_config(size)
  own = dict(changes)
  objective = config.objective
  objective.noise_range = own.pop("noise_range", (0.0, 1.0))
  objective.shift = process.Shift(shift=shift)
  objective.model.backbone = dataclasses.replace(objective.model.backbone, **own)
  objective.model.text = stored.StoredTextConfig(tokenizer=_TEXT, width=4096)
  config.data = dataclasses.replace(
    config.data, tokenizer=_TEXT, max_clips_per_row=_CLIPS,
    text_tokens_per_row=_CLIPS * _TEXT.padded,
  )  # fmt: skip
  config.optimizer = optimizer.AdamW(
    lr=optimizer.Cosine(peak=2e-5, warmup_steps=500), weight_decay=0.01
  )
  config.num_steps = 20_000
  config.warm_start = warm_start.WarmStart(
    path="", expert="low" if arg == "a14b-low" else "high"
  )
  return config
