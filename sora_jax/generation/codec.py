"""A video compression network with its weights, ready for clips of any size and length.

  Codec(workdir)    the newest checkpoint of an autoencoder that was trained here
  Codec(folder)     a Wan autoencoder in diffusers' layout

Clips of one spatial size go through together. Because the network is causal, their time
is padded at the end to a few lengths and cut again afterwards, so that one compiled
program serves many durations; what is longer than a chunk, or larger than a tile, goes
through in pieces.

Shapes: T, H, W pixels; t, h, w latents; Z latent channels.
Used by: data_pipelines/jobs/encode_latents.py, generation/generator.py, sora_jax/demo.py.
"""

import collections
import hashlib
import math
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

from sora_jax import configlib, sharding
from sora_jax.nn.skeleton import Arrays, Skeleton
from sora_jax.objectives import autoencoder as objective_lib
from sora_jax.training import checkpoint
from sora_jax.vae import autoencoder, streaming, wan_weights

_CODEC = "codec."  # names of the codec's arrays among those of an objective


class Codec:
  """Encodes and decodes; `config` has its compression and grid."""

  def __init__(
    self, folder: str | pathlib.Path, pieces: streaming.Pieces | None = None,
    *, device: jax.Device | None = None,
  ):  # fmt: skip
    """Runs on `device`, by default this process's first.

    Raises:
      ValueError: the folder holds no autoencoder.
    """
    self.workdir = pathlib.Path(folder)
    load = wan_weights.load if wan_weights.is_wan(folder) else _load_trained
    self.config, params, other = load(self.workdir)
    place = device or jax.local_devices()[0]
    self._streamer = streaming.Streamer(
      Skeleton.of(self.config.make),
      *jax.device_put((params, other), place),
      compression=self.config.compression,
      pieces=pieces or streaming.Pieces(),
    )

  def fingerprint(self) -> str:
    """A digest of the weights and the pieces: equal ones give equal latents."""
    digest = hashlib.sha256()
    digest.update(configlib.to_json(self._streamer.pieces).encode())
    arrays = {**self._streamer.params, **self._streamer.other}
    for name, value in sorted(arrays.items()):
      digest.update(name.encode())
      digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()[:16]

  def encode(
    self, videos: Sequence[np.ndarray], *, seeds: Sequence[int] | None = None
  ) -> list[np.ndarray]:
    """uint8 [T, H, W, 3] each -> float32 latents [t, h, w, Z] each.

    The mean of the posterior, or with a seed per video a sample of it.

    Raises:
      ValueError: a video is off the grid (see `AutoencoderConfig.latent_size`).
    """
    sizes = [self.config.latent_size(*video.shape[:3]) for video in videos]
    per_latent = self.config.compression[0]

    def pad(video: np.ndarray, latents: int) -> np.ndarray:
      return _pad_time(video, 1 + per_latent * (latents - 1))

    def apply(batch: np.ndarray, members: list[int]) -> np.ndarray:
      if seeds is None:
        return self._streamer.encode(batch)
      # A key per call, so one video per call: its sample is its own wherever it stands.
      return np.concatenate([
        self._streamer.encode(batch[i : i + 1], jax.random.key(seeds[member]))
        for i, member in enumerate(members)
      ])  # fmt: skip

    return self._map(apply, videos, sizes, pad, lambda out, size: out[: size[0]])

  def decode(self, latents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """float32 latents [t, h, w, Z] each -> uint8 frames [T, H, W, 3] each."""
    sizes = [z.shape[:3] for z in latents]
    per_latent = self.config.compression[0]

    def cut(frames: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
      return frames[: 1 + per_latent * (size[0] - 1)]

    def apply(batch: np.ndarray, members: list[int]) -> np.ndarray:
      del members
      return self._streamer.decode(batch)

    return self._map(apply, latents, sizes, _pad_time, cut)

  def codes(self, videos: Sequence[np.ndarray]) -> list[np.ndarray]:
    """uint8 [T, H, W, 3] each -> int32 codes [t, h, w] each, of VQ and FSQ.

    Raises:
      ValueError: the bottleneck has no codebook.
    """
    model = self._streamer.skeleton.merge(self._streamer.params, self._streamer.other)
    if not hasattr(model.bottleneck, "codes"):
      raise ValueError(f"{self.workdir} holds a codec without a codebook")
    mean, std = jax.device_get(model.latent_moments())
    raw = [z * std + mean for z in self.encode(videos)]
    return [np.asarray(model.bottleneck.codes(z)) for z in raw]

  def _map(
    self, apply: Callable, items: Sequence[np.ndarray], sizes: list[tuple[int, ...]],
    pad: Callable, cut: Callable,
  ) -> list[np.ndarray]:  # fmt: skip
    """Applies a program to items of one padded size at a time, in their order."""
    pieces = self._streamer.pieces
    groups = collections.defaultdict(list)
    for i, (t, h, w) in enumerate(sizes):
      groups[_round_up_time(t, pieces.chunk(h, w)), h, w].append(i)
    results: list = [None] * len(items)
    for (t, h, w), members in groups.items():
      at_once = 2 ** int(math.log2(max(1, pieces.positions // (t * h * w))))
      for start in range(0, len(members), at_once):
        some = members[start : start + at_once]
        batch = [pad(items[i], t) for i in some]
        # Filled up to a power of two: few programs serve every number of clips.
        full = min(at_once, 2 ** math.ceil(math.log2(len(some))))
        batch += [batch[-1]] * (full - len(some))
        for i, result in zip(some, apply(np.stack(batch), some)):
          results[i] = cut(result, sizes[i])
    return results


def _load_trained(
  workdir: pathlib.Path,
) -> tuple[autoencoder.AutoencoderConfig, Arrays, Arrays]:
  """(config, params, other) of the newest checkpoint, the average over steps."""
  path = workdir / "config.json"
  if not path.exists():
    raise ValueError(f"no codec at {str(workdir)!r}: it has no config.json")
  objective = configlib.from_json(configlib.read(path), field="objective")
  if not isinstance(objective, objective_lib.AutoencoderObjective):
    raise ValueError(f"{workdir} holds a {type(objective).__name__}, not a codec")
  abstract = sharding.on_one_device(Skeleton.of(objective.make).abstract)
  params, other, _ = checkpoint.restore_model(workdir, abstract, ema=True)
  return objective.model, *(
    {name.removeprefix(_CODEC): x for name, x in arrays.items() if _CODEC in name}
    for arrays in (params, other)
  )


def _round_up_time(latents: int, chunk: int) -> int:
  """1 for images; 5, 9, 17, ... (one more than a power of two), chunks beyond one."""
  if latents > chunk:
    return -(-latents // chunk) * chunk
  if latents == 1:
    return 1
  return min(chunk, 1 + 2 ** max(2, math.ceil(math.log2(latents - 1))))


def _pad_time(x: np.ndarray, length: int) -> np.ndarray:
  return np.concatenate((x, np.repeat(x[-1:], length - len(x), axis=0)))
