"""Eight fake CPU devices, and small things that many tests share."""

import atexit
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs here run for moments: they are compiled quickly rather than well.
os.environ["XLA_QUICKLY"] = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ.setdefault(
  "XLA_FLAGS", "--xla_force_host_platform_device_count=8 " + os.environ["XLA_QUICKLY"]
)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# What one test, command or worker has compiled, the next one loads.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
  atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import absl.flags
import jax
import numpy as np
import pytest

from data_pipelines import loader
from data_pipelines.builders import latents as latents_builder
from sora_jax import api, configlib, sharding
from sora_jax.diffusion import process
from sora_jax.models import dit, text_to_video
from sora_jax.nn import packing, skeleton
from sora_jax.objectives import autoencoder, diffusion, known_masks
from sora_jax.text import encoder, tokenizers
from sora_jax.training import checkpoint, optimizer, state
from sora_jax.training import workdir as workdir_lib
from sora_jax.training.config import TrainConfig
from sora_jax.vae import bottlenecks, factorized

absl.flags.FLAGS.mark_as_parsed()

CHANNELS = 4
TOKENIZER = tokenizers.WordTokenizer(vocab_size=64, max_tokens=8)


def tiny_model(**backbone) -> text_to_video.TextToVideoConfig:
  """A DiT that compiles in a second."""
  sizes = {
    "patch": (1, 1, 1), "latent_channels": CHANNELS, "width": 32, "depth": 2,
    "num_heads": 2, "mlp_dim": 64, "text_dim": 16, "freq_dim": 16,
    "absolute_frequencies": 2,
  }  # fmt: skip
  return text_to_video.TextToVideoConfig(
    backbone=dit.DiTConfig(**{**sizes, **backbone}),
    text=encoder.TextEncoderConfig(
      tokenizer=TOKENIZER, width=16, depth=1, num_heads=2
    ),
  )


def tiny_objective(**backbone) -> diffusion.VideoDiffusion:
  return diffusion.VideoDiffusion(
    model=tiny_model(**backbone),
    times=process.LogitNormal(),
    shift=process.Shift(base_tokens=16),
    masks=known_masks.KnownMasks(first_frame=0.5, both_ends=0.5),
  )


def tiny_config(path: str, **changes) -> TrainConfig:
  """A whole run on the latents at `path`."""
  fields = {
    "objective": tiny_objective(),
    "data": loader.PackedLatents(
      path=path, rows=8, tokens_per_row=64, text_tokens_per_row=32, packing_bins=4,
      max_clips_per_row=6, tokenizer=TOKENIZER,
    ),
    "optimizer": optimizer.AdamW(lr=optimizer.Cosine(peak=2e-3, warmup_steps=2)),
    "mesh": sharding.MeshConfig(), "num_steps": 4, "log_every": 1,
    "checkpoint_every": 2,
  }  # fmt: skip
  return TrainConfig(**{**fields, **changes})


def clip(index: int, size: tuple[int, int, int], words: int) -> dict:
  """The arrays of one clip, the same for an index wherever it is packed."""
  rng = np.random.default_rng(index)
  num = int(np.prod(size))
  return {
    "size": size,
    "tokens": rng.normal(size=(num, CHANNELS)).astype(np.float32),
    "eps": rng.normal(size=(num, CHANNELS)).astype(np.float32),
    "t": np.float32(rng.uniform(0.1, 0.9)),
    "text": rng.integers(2, TOKENIZER.vocab_size, words).astype(np.int32),
    "known": np.arange(num) < (int(np.prod(size[1:])) if index % 2 else 0),
  }


def pack_clips(
  rows: list[list[dict]], *, length: int = 64, text: int = 24, segments: int = 5
) -> tuple[api.PackedTokens, np.ndarray, np.ndarray]:
  """(batch, t [B, S], eps [B, L, P]) of clips laid into rows in the given order."""
  batch = packing.empty(
    len(rows), tokens=length, token_dim=CHANNELS, text=text, segments=segments
  )
  t = np.full((len(rows), segments), 0.5, np.float32)
  eps = np.zeros((len(rows), length, CHANNELS), np.float32)
  for r, clips in enumerate(rows):
    for s, one in enumerate(clips):
      span = packing.append(
        batch, r, size=one["size"], tokens=one["tokens"], text=one["text"], clip_id=s
      )
      batch.known[r, span], eps[r, span], t[r, s] = one["known"], one["eps"], one["t"]
  return batch, t, eps


def write_latents(folder, num: int = 40, seed: int = 0) -> str:
  """A small latents dataset of mixed sizes; returns its versioned folder."""
  rng = np.random.default_rng(seed)
  sizes = [(1, 2, 2), (2, 3, 4), (3, 4, 2), (1, 4, 5), (4, 3, 3)]

  def examples():
    for i in range(num):
      size = sizes[rng.integers(len(sizes))]
      yield {
        "index": i, "id": f"clip{i}", "caption": f"clip number {i % 7}", "fps": 8.0,
        "latents": rng.normal(size=(*size, CHANNELS)).astype(np.float32),
        "video_size": np.int32([1 + 4 * (size[0] - 1), 8 * size[1], 8 * size[2]]),
      }  # fmt: skip

  latents_builder.Latents(splits={"train": examples}, data_dir=folder).write()
  return str(folder / "latents" / "1.0.0")


def write_codec(folder) -> None:
  """The workdir of an untrained codec for the tiny models."""
  objective = autoencoder.AutoencoderObjective(
    model=factorized.FactorizedConfig(
      bottleneck=bottlenecks.Kl(channels=CHANNELS), widths=(8, 16)
    )
  )
  config = TrainConfig(
    objective=objective, data=None, num_steps=1, mesh=sharding.MeshConfig(),
    optimizer=optimizer.AdamW(lr=optimizer.Cosine(peak=1e-3)),
  )  # fmt: skip
  workdir_lib.claim(folder, config)
  untrained, _ = state.init_sharded(
    skeleton.Skeleton.of(objective.make), config.optimizer.make(1), 0, config.mesh.make()
  )
  saver = checkpoint.Checkpointer(folder)
  saver.save_last(untrained, {}, step=1)
  saver.close()


@configlib.config
class OneBatch:
  """A source of videos of a few lines: the loop needs no data pipeline."""

  rows: int = 8

  def open(self, rows):
    del rows
    return self

  def __next__(self):
    video = np.zeros((8, 5, 16, 16, 3), np.uint8)
    for i in range(8):
      video[i, :, 2 + i :, : 4 + i] = 30 * i
    return {"video": video}

  def get_state(self):
    return {"0": 0}

  def rejected(self):
    return []

  def names(self, clip_ids):
    return [str(number) for number in clip_ids]


@pytest.fixture(scope="session")
def latents_path(tmp_path_factory) -> str:
  return write_latents(tmp_path_factory.mktemp("latents"))


@pytest.fixture(scope="session")
def helpers():
  """This module's functions, for tests in any folder."""
  import types

  return types.SimpleNamespace(
    tiny_model=tiny_model, tiny_objective=tiny_objective, tiny_config=tiny_config,
    clip=clip, pack_clips=pack_clips, write_latents=write_latents, CHANNELS=CHANNELS,
    TOKENIZER=TOKENIZER, OneBatch=OneBatch, write_codec=write_codec,
  )  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """The longest files first, so that two workers end together."""
  first = ("test_demo", "test_processes", "test_survival", "test_loop", "test_dit")

  def place(item: pytest.Item) -> int:
    name = item.path.stem
    return first.index(name) if name in first else len(first)

  items.sort(key=place)


@pytest.fixture
def one_device():
  return sharding.MeshConfig().make(jax.devices()[:1])
