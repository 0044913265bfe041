"""Tiny networks of the family, with parameters that are nowhere zero."""

import types

import numpy as np
import pytest

from sora_jax.nn.skeleton import Skeleton
from sora_jax.vae import autoencoder, bottlenecks, factorized, wan

FACTORIZED = factorized.FactorizedConfig(
  bottleneck=bottlenecks.Kl(channels=3), widths=(8, 16), decoder_blocks=(1, 1)
)
WAN = wan.WanConfig(
  bottleneck=bottlenecks.Kl(channels=4), base_dim=4, dim_mult=(1, 2, 2, 2),
  num_res_blocks=1,
)  # fmt: skip
WAN_RESIDUAL = wan.WanConfig(
  bottleneck=bottlenecks.Kl(channels=6), base_dim=4, decoder_base_dim=8,
  dim_mult=(1, 2, 2, 2), num_res_blocks=1, residual=True, patch=2,
)  # fmt: skip
FAMILY = {"factorized": FACTORIZED, "wan": WAN, "wan_residual": WAN_RESIDUAL}


def perturbed(config: autoencoder.AutoencoderConfig) -> tuple[Skeleton, dict, dict]:
  """(skeleton, params, other): zeros and ones of a fresh model could hide a mistake."""
  skeleton = Skeleton.of(config.make)
  rng = np.random.default_rng(0)

  def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    scale = 1.0 / np.sqrt(np.prod(shape[:-1]))
    center = 1.0 if name.endswith("scale") else 0.0
    noise = 0.2 if center else scale
    return (center + noise * rng.normal(size=shape)).astype(np.float32)

  params, other = skeleton.abstract
  params = {name: draw(name, x.shape) for name, x in params.items()}
  other = {name: np.zeros(x.shape, x.dtype) for name, x in other.items()} | {
    "latent_mean": np.linspace(-1.0, 1.0, config.latent_channels, dtype=np.float32),
    "latent_square": np.linspace(1.5, 4.0, config.latent_channels, dtype=np.float32),
  }
  return skeleton, params, other


@pytest.fixture(scope="session")
def networks():
  """This module's names, for the tests beside it."""
  return types.SimpleNamespace(**globals())
