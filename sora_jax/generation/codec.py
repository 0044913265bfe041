"""A trained video compression network, ready to encode and decode clips of any size.

Clips of one spatial size go through together. Because the network is causal, their time
is padded at the end to a few lengths and cut again afterwards, so that one compiled
program serves many durations.

Shapes: T, H, W pixels; t, h, w latents; Z latent channels.
Used by: data_pipelines/jobs/encode_latents.py, generation/generator.py, sora_jax/demo.py.
"""

import collections
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sora_jax import configlib
from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import autoencoder as objective_lib
from sora_jax.training import checkpoint

# Latent values that go through the network at once; bounds the memory of one call.
_LATENTS_AT_ONCE = 4096


class Codec:
  """Encodes and decodes with the newest checkpoint of an autoencoder's workdir."""

  def __init__(self, workdir: str | pathlib.Path):
    """Raises ValueError where the workdir holds no trained autoencoder."""
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
      raise ValueError(f"no codec at {str(workdir)!r}: it has no config.json")
    objective = configlib.from_json(path.read_text(), field="objective")
    if not isinstance(objective, objective_lib.AutoencoderObjective):
      raise ValueError(f"{workdir} holds a {type(objective).__name__}, not a codec")
    self.workdir = pathlib.Path(workdir)
    self.config = objective.model
    skeleton = Skeleton.of(objective.make)
    self._params, self._other, _ = checkpoint.restore_model(
      pathlib.Path(workdir), on_one_device(skeleton.abstract), ema=True
    )

    def encode(params, other, video):
      return skeleton.merge(params, other).encode(objective_lib.to_unit_range(video))

    def decode(params, other, latents):
      return objective_lib.to_uint8(skeleton.merge(params, other).decode(latents))

    self._encode = functools.partial(jax.jit(encode), self._params, self._other)
    self._decode = functools.partial(jax.jit(decode), self._params, self._other)

  def fingerprint(self) -> str:
    """A digest of the weights: the same codec gives the same latents."""
    digest = hashlib.sha256()
    for name, value in sorted({**self._params, **self._other}.items()):
      digest.update(name.encode())
      digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()[:16]

  def encode(self, videos: Sequence[np.ndarray]) -> list[np.ndarray]:
    """uint8 [T, H, W, 3] each -> float32 latents [t, h, w, Z] each.

    Raises:
      ValueError: a video is off the grid (see `AutoencoderConfig.latent_size`).
    """
    sizes = [self.config.latent_size(*video.shape[:3]) for video in videos]
    frames_per_latent = self.config.compression[0]

    def pad(video: np.ndarray, latents: int) -> np.ndarray:
      frames = 1 + frames_per_latent * (latents - 1)
      return _pad_time(video, frames)

    return self._map(self._encode, videos, sizes, pad, lambda out, size: out[: size[0]])

  def decode(self, latents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """float32 latents [t, h, w, Z] each -> uint8 frames [T, H, W, 3] each."""
    sizes = [z.shape[:3] for z in latents]
    frames_per_latent = self.config.compression[0]

    def cut(frames: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
      return frames[: 1 + frames_per_latent * (size[0] - 1)]

    return self._map(self._decode, latents, sizes, _pad_time, cut)

  def _map(
    self, apply: Callable, items: Sequence[np.ndarray], sizes: list[tuple[int, ...]],
    pad: Callable, cut: Callable,
  ) -> list[np.ndarray]:  # fmt: skip
    """Applies a program to items of one padded size at a time, in their order."""
    groups = collections.defaultdict(list)
    for i, (t, h, w) in enumerate(sizes):
      groups[_round_up_time(t), h, w].append(i)
    results: list = [None] * len(items)
    for (t, h, w), members in groups.items():
      at_once = 2 ** int(math.log2(max(1, _LATENTS_AT_ONCE // (t * h * w))))
      for start in range(0, len(members), at_once):
        chunk = members[start : start + at_once]
        batch = [pad(items[i], t) for i in chunk]
        # Filled up to a power of two: few programs serve every number of clips.
        full = min(at_once, 2 ** math.ceil(math.log2(len(chunk))))
        batch += [batch[-1]] * (full - len(chunk))
        out = jax.device_get(apply(jnp.asarray(np.stack(batch))))
        for i, result in zip(chunk, out):
          results[i] = cut(result, sizes[i])
    return results


def on_one_device(abstract):
  """Abstract arrays placed whole on this process's first device."""
  place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), abstract
  )


def _round_up_time(latents: int) -> int:
  """5, 9, 17, ... (one more than a power of two), and 1 for images."""
  return 1 if latents == 1 else 1 + 2 ** max(2, math.ceil(math.log2(latents - 1)))


def _pad_time(x: np.ndarray, length: int) -> np.ndarray:
  return np.concatenate((x, np.repeat(x[-1:], length - len(x), axis=0)))
