"""The demo: an autoencoder and a packed text-to-video DiT, small enough for a laptop.

  python -m sora_jax.demo --workdir=runs/demo                   (everything, in order)
  python -m sora_jax.demo --workdir=runs/mine --videos=FOLDER   (on your own clips)

or one run at a time, with the datasets that the jobs of data_pipelines made:

  python -m sora_jax.train --config=configs/demo.py:vae --config.data.path=CLIPS \\
      --workdir=runs/vae
  python -m sora_jax.train --config=configs/demo.py:dit --config.data.path=LATENTS \\
      --config.codec=runs/vae --workdir=runs/dit

Two CPU cores, moving shapes: `vae` takes 2 minutes to 28 dB on held-out clips, `dit` 12
minutes to the accuracies in the README.
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
from sora_jax.vae import bottlenecks, factorized

LATENT_CHANNELS = 24  # values per token too: few, which is what makes it learn fast
TEXT_WIDTH = 128


def get_config(arg: str = "dit") -> TrainConfig:
  """`vae` and `dit` for moving shapes, `videos_vae` and `videos_dit` for real clips."""
  runs = {
    "vae": lambda: codec(rows=32, crop=(9, 24, 24)),
    "dit": lambda: denoiser(
      tokenizer=tokenizers.WordTokenizer(vocab_size=4096, max_tokens=24),
      data={"rows": 8, "tokens_per_row": 256, "text_tokens_per_row": 72},
    ),
    # Clips of up to 64 x 64 pixels and 17 frames: at most 320 tokens. Captions of real
    # clips are sentences.
    "videos_vae": lambda: codec(rows=8, crop=(17, 40, 40)),
    "videos_dit": lambda: denoiser(
      tokenizer=tokenizers.WordTokenizer(vocab_size=8192, max_tokens=96),
      data={"rows": 2, "tokens_per_row": 1024, "text_tokens_per_row": 384},
    ),
  }
  if arg not in runs:
    raise ValueError(f"configs/demo.py takes one of {sorted(runs)}, not {arg!r}")
  return runs[arg]()


def codec(*, rows: int, crop: tuple[int, int, int]) -> TrainConfig:
  """The video compression network, 4x8x8."""
  return TrainConfig(
    objective=autoencoder_objective.AutoencoderObjective(
      model=factorized.FactorizedConfig(
        bottleneck=bottlenecks.Kl(channels=LATENT_CHANNELS)
      )
    ),
    data=crops.ClipCrops(rows=rows, crop=crop),
    optimizer=optimizer.Muon(
      lr=optimizer.Cosine(peak=0.02), adam_lr=optimizer.Cosine(peak=2e-3)
    ),
    mesh=sharding.MeshConfig(),
    num_steps=1200,
    ema_decay=0.99,
  )


def denoiser(*, tokenizer: tokenizers.WordTokenizer, data: dict) -> TrainConfig:
  """The denoiser and its text encoder, on packed latents."""
  return TrainConfig(
    objective=diffusion.VideoDiffusion(
      model=text_to_video.TextToVideoConfig(
        backbone=dit.DiTConfig(
          patch=(1, 1, 1), latent_channels=LATENT_CHANNELS, width=128, depth=4,
          num_heads=4, mlp_dim=512, text_dim=TEXT_WIDTH, activation="relu2",
          absolute_frequencies=4,
        ),
        text=encoder.TextEncoderConfig(
          tokenizer=tokenizer, width=TEXT_WIDTH, depth=2, activation="relu2"
        ),
      ),
      # Where an object stands is decided at high noise: with less weight there, it is
      # sometimes drawn in two places, or as one long thing between them.
      times=process.LogitNormal(mean=0.0, std=1.0),
      shift=process.Shift(shift=2.0, base_tokens=48),
      masks=known_masks.KnownMasks(),
    ),
    data=loader.PackedLatents(
      tokenizer=tokenizer, max_clips_per_row=12, packing_bins=96, **data
    ),
    optimizer=optimizer.Muon(
      lr=optimizer.Cosine(peak=0.02), adam_lr=optimizer.Cosine(peak=2e-3)
    ),
    mesh=sharding.MeshConfig(),
    num_steps=2400,
    ema_decay=0.998,
  )  # fmt: skip
