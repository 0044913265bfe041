"""What stands between encoder and decoder: KL, VQ or FSQ, behind one signature.

  z, loss, metrics = bottleneck(h, key)      in training
  z = bottleneck.latents(h, key)             afterwards; key=None for no noise
  codes = bottleneck.codes(z)                of VQ and FSQ: which entry, int32

Shapes: h [..., num_inputs] from the encoder, z [..., Z] to the decoder; N positions;
K codes.
Used by: autoencoder.py.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sora_jax import api
from sora_jax.configlib import config


class Statistics(nnx.Variable):
  """Running moments: carried and saved, not trained."""


# ---- KL ---------------------------------------------------------------------------------


@config
class Kl:
  """A diagonal Gaussian, kept near N(0, 1) (VAE, arXiv:1312.6114)."""

  channels: int = 16
  weight: float = 5e-5  # of the divergence, per latent value

  @property
  def num_inputs(self) -> int:
    return 2 * self.channels

  def make(self, rngs: nnx.Rngs) -> "KlBottleneck":
    del rngs
    return KlBottleneck(self)


class KlBottleneck(nnx.Module):
  """h = (mean, log variance)."""

  def __init__(self, config: Kl):
    self.config = config

  def __call__(
    self, h: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array, api.Metrics]:
    mean, log_variance = self._moments(h)
    kl = 0.5 * jnp.mean(
      jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance
    )
    return self.latents(h, key), self.config.weight * kl, {"kl": kl}

  def latents(self, h: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """The mean of the posterior, or a sample of it. With a key h is [B, ...]."""
    mean, log_variance = self._moments(h)
    if key is None:
      return mean
    # One key per row, so that the noise does not depend on how rows are sharded.
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(h.shape[0]))
    eps = jax.vmap(lambda k: jax.random.normal(k, mean.shape[1:]))(keys)
    return mean + jnp.exp(0.5 * log_variance) * eps

  def _moments(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_variance = jnp.split(h, 2, axis=-1)
    # As diffusers' DiagonalGaussianDistribution; wide enough to be never met.
    return mean, jnp.clip(log_variance, -30.0, 20.0)


# ---- VQ ---------------------------------------------------------------------------------


@config
class Vq:
  """The nearest of K learned codes (arXiv:1711.00937), moved by running averages.

  A code that hardly anything is nearest to is dead; it is moved onto a random position
  of the batch (as in Jukebox, arXiv:2005.00341).
  """

  channels: int = 16
  num_codes: int = 1024
  commitment: float = 0.25  # pulls h towards its code
  decay: float = 0.97
  dead_below: float = 0.02  # positions a step, in the running average

  @property
  def num_inputs(self) -> int:
    return self.channels

  def make(self, rngs: nnx.Rngs) -> "VqBottleneck":
    return VqBottleneck(self, rngs=rngs)


class VqBottleneck(nnx.Module):
  """h -> its nearest code; gradients go straight through to h."""

  def __init__(self, config: Vq, *, rngs: nnx.Rngs):
    shape = (config.num_codes, config.channels)
    # All dead, so that the first batch gives them their places.
    self.codebook = Statistics(jax.random.normal(rngs.params(), shape))
    self.counts = Statistics(jnp.zeros(config.num_codes))
    self.config = config

  def __call__(
    self, h: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array, api.Metrics]:
    codes = self.codes(h)
    z = self.codebook[...][codes]
    target = jax.lax.stop_gradient(z)
    loss = self.config.commitment * jnp.mean(jnp.square(h - target))
    hits = jnp.bincount(codes.reshape(-1), length=self.config.num_codes)
    self._update(jax.lax.stop_gradient(h), codes, hits, key)
    return h + jax.lax.stop_gradient(z - h), loss, usage(hits)

  def latents(self, h: jax.Array, key: jax.Array | None = None) -> jax.Array:
    del key  # there is no noise to draw
    return self.codebook[...][self.codes(h)]

  def codes(self, z: jax.Array) -> jax.Array:
    """The index of the nearest code of each position."""
    codebook = self.codebook[...]
    distance = jnp.sum(jnp.square(codebook), -1) - 2.0 * z @ codebook.T
    return jnp.argmin(distance, axis=-1).astype(jnp.int32)

  def _update(self, h: jax.Array, codes: jax.Array, hits: jax.Array, key: jax.Array):
    decay, h_NZ = self.config.decay, h.reshape(-1, h.shape[-1])
    sums = jax.ops.segment_sum(h_NZ, codes.reshape(-1), num_segments=self.config.num_codes)
    counts = decay * self.counts[...] + (1 - decay) * hits
    # The running mean of what was nearest: each code moves by its share of new ones.
    share = ((1 - decay) * hits / jnp.maximum(counts, 1e-6))[:, None]
    means = sums / jnp.maximum(hits, 1)[:, None]
    codebook = self.codebook[...] + share * (means - self.codebook[...])
    dead = counts < self.config.dead_below
    chosen = jax.random.randint(key, (self.config.num_codes,), 0, h_NZ.shape[0])
    self.codebook[...] = jnp.where(dead[:, None], h_NZ[chosen], codebook)
    # A revived code lives as long as an average one would without a hit.
    alive = h_NZ.shape[0] / self.config.num_codes
    self.counts[...] = jnp.where(dead, alive, counts)


# ---- FSQ --------------------------------------------------------------------------------


@config
class Fsq:
  """Every channel rounded to a few levels (arXiv:2309.15505); no codebook to train."""

  levels: tuple[int, ...] = (8, 5, 5, 5)

  @property
  def channels(self) -> int:
    return len(self.levels)

  @property
  def num_inputs(self) -> int:
    return len(self.levels)

  @property
  def num_codes(self) -> int:
    return math.prod(self.levels)

  def make(self, rngs: nnx.Rngs) -> "FsqBottleneck":
    """Raises ValueError where a level count is below 2."""
    del rngs
    if not self.levels or min(self.levels) < 2:
      raise ValueError(f"levels={self.levels} must be at least 2 each")
    return FsqBottleneck(self)


class FsqBottleneck(nnx.Module):
  """z = round(bounded h), scaled to [-1, 1]; gradients go straight through."""

  def __init__(self, config: Fsq):
    self.config = config

  def __call__(
    self, h: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array, api.Metrics]:
    del key
    z = self.latents(h)
    hits = jnp.bincount(self.codes(z).reshape(-1), length=self.config.num_codes)
    return z, jnp.zeros(()), usage(hits)

  def latents(self, h: jax.Array, key: jax.Array | None = None) -> jax.Array:
    del key
    levels = np.asarray(self.config.levels, np.float32)
    # An even number of levels lies asymmetrically around 0: from -L/2 to L/2 - 1.
    half = (levels - 1) * (1 + 1e-3) / 2
    offset = np.where(levels % 2, 0.0, 0.5).astype(np.float32)
    bounded = jnp.tanh(h + np.arctanh(offset / half)) * half - offset
    rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
    return rounded / (levels // 2)

  def codes(self, z: jax.Array) -> jax.Array:
    """The mixed-radix number of each position's levels."""
    levels = np.asarray(self.config.levels)
    radix = np.concatenate(([1], np.cumprod(levels)[:-1])).astype(np.int32)
    digits = jnp.round(z * (levels // 2)).astype(jnp.int32) + levels // 2
    return jnp.sum(digits * radix, axis=-1)


def usage(hits_K: jax.Array) -> api.Metrics:
  """How much of a codebook is used: the share of codes hit, and the perplexity."""
  p = hits_K / jnp.maximum(jnp.sum(hits_K), 1)
  entropy = -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-10)))
  return {"codebook_usage": jnp.mean(hits_K > 0), "perplexity": jnp.exp(entropy)}
