"""Text-to-video models from S to 30b, on Wan latents and UMT5 captions.

  python -m sora_jax.train --config=configs/t2v.py:1.3b-480p --workdir=/gcs/run \\
      --config.data.path=LATENTS --config.codec=WAN_VAE_FOLDER --config.mesh.fsdp=64
  python -m sora_jax.compile --config=configs/t2v.py:14b-720p --topology=v5p:8x8x8 \\
      --mesh=fsdp=128,context=4

The argument is SIZE-STAGE; the stages follow one another, each from the last one's
checkpoint (Wan, arXiv:2503.20314, 4.2):

  stage  tokens a row  holds, for example
  image         8,192  two images of 1024x1024
  480p         32,768  81 frames of 832x480 (32,760 tokens), or 16 clips of 2,048
  720p         75,776  81 frames of 1280x720 (75,600 tokens)

Sizes 1.3b and 14b are Wan 2.1's shapes, 5b is Wan 2.2's with its 4x16x16 latents. What
they need on which pods is in the README, compiled and not run.
"""

from data_pipelines import loader
from sora_jax import sharding
from sora_jax.diffusion import process
from sora_jax.models import dit, text_to_video
from sora_jax.nn import attention
from sora_jax.objectives import diffusion, known_masks
from sora_jax.text import stored, tokenizers
from sora_jax.training import optimizer
from sora_jax.training.config import TrainConfig

# width, depth, heads, MLP; S to XL are DiT's (arXiv:2212.09748, table 1).
SIZES = {
  "S": {"width": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536},
  "B": {"width": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
  "L": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
  "XL": {"width": 1152, "depth": 28, "num_heads": 16, "mlp_dim": 4608},
  "1.3b": {"width": 1536, "depth": 30, "num_heads": 12, "mlp_dim": 8960},
  "5b": {
    "width": 3072, "depth": 30, "num_heads": 24, "mlp_dim": 14336, "latent_channels": 48,
  },
  "14b": {"width": 5120, "depth": 40, "num_heads": 40, "mlp_dim": 13824},
  "30b": {"width": 6144, "depth": 48, "num_heads": 48, "mlp_dim": 24576},
}  # fmt: skip
# tokens and text tokens of a row, clips in it at most, shift of the noise levels
STAGES = {
  "image": {"tokens": 8192, "text": 2048, "clips": 32, "shift": 3.0},
  "480p": {"tokens": 32_768, "text": 4096, "clips": 64, "shift": 3.0},
  "720p": {"tokens": 75_776, "text": 4096, "clips": 64, "shift": 5.0},
}
# The learning rate falls with the width, and is that of Wan's recipe at 14b.
_LEARNING_RATE = {"S": 4e-4, "B": 3e-4, "L": 2e-4, "XL": 2e-4}


def get_config(arg: str = "B-image") -> TrainConfig:
  """SIZE-STAGE, or SIZE alone for its 480p stage."""
  size, _, stage = arg.partition("-")
  stage = stage or "480p"
  if size not in SIZES or stage not in STAGES:
    raise ValueError(
      f"configs/t2v.py takes SIZE or SIZE-STAGE with a size of {sorted(SIZES)} and a "
      f"stage of {sorted(STAGES)}, not {arg!r}"
    )
  row = STAGES[stage]
  text = tokenizers.StoredEmbeddings(max_tokens=512)
  large = size not in _LEARNING_RATE
  return TrainConfig(
    objective=diffusion.VideoDiffusion(
      model=text_to_video.TextToVideoConfig(
        backbone=dit.DiTConfig(
          patch=(1, 2, 2), remat="full" if large else "attention",
          attention=attention.AttentionConfig(block=512), **SIZES[size],
        ),
        text=stored.StoredTextConfig(tokenizer=text, width=4096),
      ),
      times=process.LogitNormal(mean=0.0, std=1.0),
      shift=process.Shift(shift=row["shift"], base_tokens=row["tokens"]),
      masks=known_masks.KnownMasks(first_frame=0.1),
      compute_dtype="bfloat16",
    ),
    data=loader.PackedLatents(
      tokenizer=text, patch=(1, 2, 2), rows=64, tokens_per_row=row["tokens"],
      text_tokens_per_row=row["text"], max_clips_per_row=row["clips"],
      skip_too_long=True,
    ),
    optimizer=optimizer.AdamW(
      lr=optimizer.Cosine(peak=_LEARNING_RATE.get(size, 1e-4), warmup_steps=1000),
      weight_decay=0.01,
    ),
    mesh=sharding.MeshConfig(),
    num_steps=200_000,
    ema_decay=0.9999,
    log_every=10,
    checkpoint_every=1000,
  )  # fmt: skip
