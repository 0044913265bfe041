"""Linear against nonlinear: PCA, KL, VQ and FSQ codecs in one table.

  python -m benchmarks.codecs --workdir=runs/codecs --out=benchmarks/results

Renders moving shapes, trains the three networks of configs/vae.py, fits PCA with as
many channels as KL has, and measures all of them on the same held-out clips. Writes
codecs.json and codecs.png (clips above their reconstructions). What stands in the
workdir is reused.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np
from absl import flags

from benchmarks import measuring
from configs import vae
from data_pipelines import moving_shapes, rows
from data_pipelines.jobs import render_shapes
from sora_jax import cli
from sora_jax.evals import pca, reconstruction
from sora_jax.generation import codec as codec_lib
from sora_jax.generation import video_files
from sora_jax.training import loop

_KINDS = ("kl", "vq", "fsq")
_SHOWN = 4  # clips in the picture


class AnyCodec(Protocol):
  """What is measured."""

  def encode(self, videos: Sequence[np.ndarray]) -> list[np.ndarray]: ...
  def decode(self, latents: Sequence[np.ndarray]) -> list[np.ndarray]: ...


def measure(codec: AnyCodec, videos: list[np.ndarray]) -> tuple[dict, list[np.ndarray]]:
  """(row of the table, copies)."""
  latents = codec.encode(videos)
  copies = codec.decode(latents)
  row = {
    name: round(float(np.mean([f(*pair) for pair in zip(videos, copies)])), 4)
    for name, f in reconstruction.MEASURES.items()
  }
  row["channels"] = latents[0].shape[-1]
  row["values_per_pixel"] = round(
    sum(z.size for z in latents) / sum(v.size // 3 for v in videos), 4
  )
  return row, copies


def codebook(codec: codec_lib.Codec, videos: list[np.ndarray], size: int) -> dict:
  """Which codes the clips take."""
  codes = np.concatenate([c.reshape(-1) for c in codec.codes(videos)])
  hits = np.bincount(codes, minlength=size)
  p = hits[hits > 0] / hits.sum()
  return {
    "codes": size,
    "codebook_usage": round(float(np.mean(hits > 0)), 4),
    "perplexity": round(float(np.exp(-(p * np.log(p)).sum())), 1),
    "positions": len(codes),
  }


def run(workdir: pathlib.Path, num_clips: int) -> tuple[dict, dict[str, list]]:
  """(table, copies of the first held-out clips by codec)."""
  clips = render_shapes.render(
    workdir / "clips", moving_shapes.MovingShapes(), num_train=num_clips, num_test=240,
    num_heldout=1,
  )  # fmt: skip
  test = rows.open_source(str(clips), "test")
  videos = [test[i]["video"] for i in range(len(test))]
  train = rows.open_source(str(clips), "train")
  shown = sorted(range(len(videos)), key=lambda i: -videos[i].size)[:_SHOWN]
  table, pictures = {}, {"truth": [videos[i] for i in shown]}

  config = vae.get_config("kl")
  started = time.perf_counter()
  baseline = pca.Pca.fit(
    [train[i]["video"] for i in range(min(len(train), 1000))],
    config.objective.model.compression, config.objective.model.latent_channels,
  )  # fmt: skip
  seconds = time.perf_counter() - started
  table["pca"], copies = measure(baseline, videos)
  table["pca"] |= {"train_seconds": round(seconds, 1),
                   "explained_variance": round(baseline.explained, 4)}  # fmt: skip
  pictures["pca"] = [copies[i] for i in shown]

  for kind in _KINDS:
    config = vae.get_config(kind)
    config.data.path = str(clips)
    started = time.perf_counter()
    loop.train(config, workdir / kind)
    seconds = time.perf_counter() - started
    codec = codec_lib.Codec(workdir / kind)
    row, copies = measure(codec, videos)
    row |= {"train_seconds": round(seconds, 1), "steps": config.num_steps}
    if kind != "kl":
      # Of the training clips too: few held-out positions could not hit every code.
      some = [train[i]["video"] for i in range(min(len(train), 1000))]
      size = config.objective.model.bottleneck.num_codes
      row |= codebook(codec, some, size)
      row["codebook_usage_heldout"] = codebook(codec, videos, size)["codebook_usage"]
    table[kind] = row
    pictures[kind] = [copies[i] for i in shown]
  return table, pictures


def main() -> None:
  table, pictures = run(pathlib.Path(_WORKDIR.value), _NUM_CLIPS.value)
  result = {
    "hardware": measuring.hardware(),
    "jax": jax.__version__,
    "data": f"moving shapes, {_NUM_CLIPS.value} clips, measured on 240 held-out ones",
    "compression": "4x8x8",
    "codecs": table,
  }
  path = measuring.write("codecs", _OUT.value, result)
  videos = [video for i in range(_SHOWN) for video in (p[i] for p in pictures.values())]
  labels = [
    f"{name}, {reconstruction.psnr_db(pictures['truth'][i], p[i]):.1f} dB"
    if name != "truth" else "truth"
    for i in range(_SHOWN) for name, p in pictures.items()
  ]  # fmt: skip
  sheet = video_files.contact_sheet(videos, labels)
  video_files.write_png(path.with_suffix(".png"), sheet)
  for name, row in table.items():
    print(f"{name:5}", "  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
  _WORKDIR = flags.DEFINE_string("workdir", None, "Clips and checkpoints.")
  _OUT = flags.DEFINE_string("out", None, "Folder for codecs.json and codecs.png.")
  _NUM_CLIPS = flags.DEFINE_integer("num_clips", 6000, "To train on.")
  flags.mark_flags_as_required(["workdir", "out"])
  cli.run(main)
