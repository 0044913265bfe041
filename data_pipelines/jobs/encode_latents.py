"""Encodes a dataset of clips into a dataset of latents.

  python -m data_pipelines.jobs.encode_latents --clips=DATASET --codec=WORKDIR --out=DIR

Both are TFDS datasets in ArrayRecord. Latents keep their true shapes, and captions,
frame rates and sizes go with them. A finished output of the same clips and codec is
reused; an unfinished one is never under the final name.
"""

import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import flags

from data_pipelines import rows
from data_pipelines.builders import latents as latents_builder
from sora_jax import cli
from sora_jax.generation import codec as codec_lib
from sora_jax.training import metrics

_CLIPS_AT_ONCE = 512  # read, then encoded together where their sizes agree


def encode(clips: str, codec_workdir: str, out: str) -> str:
  """Encodes every split; returns the versioned folder of the new dataset."""
  out_dir = pathlib.Path(out)
  codec = codec_lib.Codec(codec_workdir)
  wanted = {"clips": str(clips), "codec": codec.fingerprint()}
  done = out_dir / "encoded.json"
  dataset = out_dir / "latents" / str(latents_builder.Latents.VERSION)
  if done.exists() and json.loads(done.read_text()) == wanted and dataset.exists():
    return str(dataset)

  partial = out_dir.with_name(out_dir.name + ".partial")
  shutil.rmtree(partial, ignore_errors=True)
  rows.open_source(clips, "train")  # names a wrong --clips before anything is written
  splits = tfds.builder_from_directory(clips).info.splits
  makers = {
    name: lambda name=name: _examples(rows.open_source(clips, name), codec, name)
    for name in splits
    if splits[name].num_examples
  }
  builder = latents_builder.Latents(splits=makers, data_dir=str(partial))
  builder.download_and_prepare()
  (partial / "encoded.json").write_text(json.dumps(wanted))
  shutil.rmtree(out_dir, ignore_errors=True)
  partial.rename(out_dir)
  return str(dataset)


def _examples(source: Any, codec: codec_lib.Codec, name: str) -> Iterator[dict[str, Any]]:
  with metrics.progress(len(source), desc=f"encode {name}", unit="clip") as bar:
    for start in range(0, len(source), _CLIPS_AT_ONCE):
      stop = min(start + _CLIPS_AT_ONCE, len(source))
      records = [source[i] for i in range(start, stop)]
      encoded = codec.encode([record["video"] for record in records])
      for index, record, latents in zip(range(start, stop), records, encoded):
        yield {
          "index": index,
          "id": record["id"],
          "latents": latents.astype(np.float32),
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
