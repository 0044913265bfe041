"""Video compression networks to train: 4x8x8, by bottleneck, and Wan's architectures.

  python -m data_pipelines.jobs.render_shapes --out=runs/clips
  python -m sora_jax.train --config=configs/vae.py:kl --workdir=runs/kl \\
      --config.data.path=runs/clips/moving_shapes/1.0.0
  python -m data_pipelines.jobs.check_codec --clips=runs/clips/moving_shapes/1.0.0 \\
      --codec=runs/kl --out=runs/kl/check

`kl`, `vq`, `fsq`: the small network on moving shapes, 2 minutes each on two CPU cores;
benchmarks/results/codecs.json has what to expect. `wan21` (4x8x8, 16 channels, 127 M
parameters) and `wan22` (4x16x16, 48 channels, 705 M): those networks from scratch, with
a PatchGAN, for accelerators and real clips. Published weights need no training: give
their folder as --codec.
"""

from data_pipelines import crops
from sora_jax import sharding
from sora_jax.objectives import autoencoder as objective
from sora_jax.training import optimizer
from sora_jax.training.config import TrainConfig
from sora_jax.vae import (
  autoencoder,
  bottlenecks,
  discriminator,
  factorized,
  perceptual,
  wan,
)

BOTTLENECKS = {
  "kl": bottlenecks.Kl(channels=16),
  "vq": bottlenecks.Vq(channels=16, num_codes=1024),
  "fsq": bottlenecks.Fsq(levels=(8, 5, 5, 5)),
}
WAN = {
  "wan21": wan.WanConfig(bottleneck=bottlenecks.Kl(channels=16, weight=1e-6)),
  "wan22": wan.WanConfig(
    bottleneck=bottlenecks.Kl(channels=48, weight=1e-6), base_dim=160,
    decoder_base_dim=256, residual=True, patch=2,
  ),
}  # fmt: skip


def get_config(arg: str = "kl") -> TrainConfig:
  """`kl`, `vq` and `fsq` for moving shapes, `wan21` and `wan22` for real clips."""
  if arg in BOTTLENECKS:
    return small(factorized.FactorizedConfig(bottleneck=BOTTLENECKS[arg]))
  if arg in WAN:
    return large(WAN[arg])
  known = sorted([*BOTTLENECKS, *WAN])
  raise ValueError(f"configs/vae.py takes one of {known}, not {arg!r}")


def small(model: autoencoder.AutoencoderConfig) -> TrainConfig:
  """For crops of moving shapes."""
  return TrainConfig(
    objective=objective.AutoencoderObjective(model=model),
    data=crops.ClipCrops(rows=32, crop=(9, 24, 24)),
    optimizer=optimizer.Muon(
      lr=optimizer.Cosine(peak=0.02), adam_lr=optimizer.Cosine(peak=2e-3)
    ),
    mesh=sharding.MeshConfig(),
    num_steps=1100,
    ema_decay=0.99,
  )


def large(model: wan.WanConfig) -> TrainConfig:
  """For crops of 17 frames of 256x256."""
  return TrainConfig(
    objective=objective.AutoencoderObjective(
      model=model, mse=0.0, l1=1.0,
      features=perceptual.GradientPyramid(), features_weight=1.0,
      adversarial=objective.Adversarial(
        model=discriminator.PatchGanConfig(width=64, levels=4), weight=0.05, start=50_000
      ),
    ),
    data=crops.ClipCrops(rows=64, crop=(17, 256, 256)),
    optimizer=optimizer.AdamW(lr=optimizer.Cosine(peak=1e-4, warmup_steps=1000)),
    mesh=sharding.MeshConfig(),
    num_steps=300_000,
    ema_decay=0.9999,
  )  # fmt: skip
