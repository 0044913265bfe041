"""The demo: an autoencoder and a packed text-to-video DiT, small enough for a laptop.

  python -m sora_jax.demo --workdir=runs/demo        (everything, with its own data)
  python -m sora_jax.train --config=configs/demo.py:vae --config.data.path=CLIPS ...
  python -m sora_jax.train --config=configs/demo.py:dit --config.data.path=LATENTS ...
"""

from data_pipelines import crops, loader
from sora_jax import sharding
from sora_jax.diffusion import process
from sora_jax.models import dit, text_to_video
from sora_jax.objectives import autoencoder as autoencoder_objective
from sora_jax.objectives import diffusion, known_masks
from sora_jax.text import encoder, tokenizers
from sora_jax.training import optimizer
from sora_jax.training.config import TrainConfig
from sora_jax.vae import autoencoder

LATENT_CHANNELS = 24
TEXT_WIDTH = 128
TOKENIZER = tokenizers.WordTokenizer(vocab_size=4096, max_tokens=24)


def get_config(arg: str = "dit") -> TrainConfig:
  """`vae` or `dit`."""
  stages = {"vae": vae, "dit": text_to_video_model}
  if arg not in stages:
    raise ValueError(f"configs/demo.py takes one of {sorted(stages)}, not {arg!r}")
  return stages[arg]()


def vae() -> TrainConfig:
  """The video compression network, 4x8x8."""
  return TrainConfig(
    objective=autoencoder_objective.AutoencoderObjective(
      model=autoencoder.AutoencoderConfig(latent_channels=LATENT_CHANNELS)
    ),
    data=crops.ClipCrops(rows=32, crop=(9, 24, 24)),
    optimizer=optimizer.Muon(
      lr=optimizer.Cosine(peak=0.02), adam_lr=optimizer.Cosine(peak=2e-3)
    ),
    mesh=sharding.MeshConfig(),
    num_steps=800,
    ema_decay=0.99,
  )


def text_to_video_model() -> TrainConfig:
  """The denoiser and its text encoder, on packed latents."""
  return TrainConfig(
    objective=diffusion.VideoDiffusion(
      model=text_to_video.TextToVideoConfig(
        backbone=dit.DiTConfig(
          patch=(1, 1, 1), latent_channels=LATENT_CHANNELS, width=128, depth=4,
          num_heads=2, mlp_dim=512, text_dim=TEXT_WIDTH, activation="relu2",
          absolute_frequencies=4,
        ),
        text=encoder.TextEncoderConfig(
          tokenizer=TOKENIZER, width=TEXT_WIDTH, depth=2, activation="relu2",
        ),
      ),
      times=process.LogitNormal(mean=0.5, std=1.0),
      shift=process.Shift(shift=1.0, base_tokens=48),
      masks=known_masks.KnownMasks(),
    ),
    data=loader.PackedLatents(
      rows=8, tokens_per_row=256, text_tokens_per_row=72, max_clips_per_row=12,
      packing_bins=96, tokenizer=TOKENIZER,
    ),
    optimizer=optimizer.Muon(
      lr=optimizer.Cosine(peak=0.02), adam_lr=optimizer.Cosine(peak=2e-3)
    ),
    mesh=sharding.MeshConfig(),
    num_steps=2000,
    ema_decay=0.998,
  )  # fmt: skip
