"""Encodes a dataset of clips into a dataset of latents.

  python -m data_pipelines.jobs.encode_latents --clips=DATASET --codec=WORKDIR --out=DIR

Both are TFDS datasets in ArrayRecord. Latents keep their true shapes, and captions,
frame rates and sizes go with them. A finished output of the same clips and codec is
reused; an unfinished one is never under the final name.
"""

import functools
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import flags

from data_pipelines import datasets, rows
from data_pipelines.builders import latents
from sora_jax import cli
from sora_jax.generation import codec as codec_lib
from sora_jax.training import metrics

_CLIPS_AT_ONCE = 512  # read, then encoded together where their sizes agree


def encode(
  clips: str | pathlib.Path, codec_workdir: str | pathlib.Path, out: str | pathlib.Path
) -> pathlib.Path:
  """Encodes every split; returns the versioned folder of the new dataset."""
  codec = codec_lib.Codec(codec_workdir)
  rows.open_source(str(clips), "train")  # names a wrong --clips before anything else
  info = tfds.builder_from_directory(str(clips)).info
  made_from = {
    "clips": {name: split.num_bytes for name, split in info.splits.items()},
    "codec": codec.fingerprint(),
  }
  dataset = datasets.standing(out, made_from)
  if dataset is None:
    splits = {
      name: functools.partial(_examples, str(clips), name, codec)
      for name, split in info.splits.items()
      if split.num_examples
    }
    with datasets.making(out, made_from) as folder:
      latents.Latents(splits=splits, data_dir=folder).write()
    dataset = datasets.standing(out, made_from)
  return dataset


def _examples(
  clips: str, name: str, codec: codec_lib.Codec
) -> Iterator[datasets.Example]:
  source = rows.open_source(clips, name)
  with metrics.progress(len(source), desc=f"encode {name}", unit="clip") as bar:
    for start in range(0, len(source), _CLIPS_AT_ONCE):
      stop = min(start + _CLIPS_AT_ONCE, len(source))
      records = [source[i] for i in range(start, stop)]
      encoded = codec.encode([record["video"] for record in records])
      for index, record, z_THWC in zip(range(start, stop), records, encoded):
        yield {
          "index": index,
          "id": record["id"],
          "latents": z_THWC,
          "caption": record["caption"],
          "fps": record["fps"],
          "video_size": np.asarray(record["video"].shape[:3], np.int32),
        }
      bar.update(stop - start)


def main() -> None:
  dataset = encode(_CLIPS.value, _CODEC.value, _OUT.value)
  print(dataset)


if __name__ == "__main__":
  _CLIPS = flags.DEFINE_string("clips", None, "Versioned folder of a clips dataset.")
  _CODEC = flags.DEFINE_string("codec", None, "Workdir of a trained autoencoder.")
  _OUT = flags.DEFINE_string("out", None, "Folder to make; the dataset is below it.")
  flags.mark_flags_as_required(["clips", "codec", "out"])
  cli.run(main)
