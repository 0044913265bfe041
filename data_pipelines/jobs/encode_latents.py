"""Encodes a dataset of clips into a dataset of latents.

  python -m data_pipelines.jobs.encode_latents --clips=DATASET --codec=FOLDER --out=DIR

Both are TFDS datasets in ArrayRecord. The codec is the workdir of an autoencoder trained
here, or a Wan autoencoder in diffusers' layout. Latents keep their true shapes, and
captions, frame rates and sizes go with them; with --text_encoder (T5, UMT5 or CLIP, a
folder of transformers) the captions' embeddings too, without padding. `latents.json`
beside the dataset has the mean and deviation of each channel over all latents.

The job may run on any number of processes and devices (see sora_jax/distributed.py):
each device writes whole shards. Started again after it was killed, it goes on with the
shards that are missing and ends with the same bytes. A finished output of the same clips
and codec is reused; an unfinished one is never under the final name. Clips that cannot
be used (see checks.py) end the job at their shard, which lists them.
"""

import concurrent.futures
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import ml_dtypes
import numpy as np
import tensorflow_datasets as tfds
from absl import flags

from data_pipelines import checks, datasets, records, rows, shards
from data_pipelines.builders import latents
from sora_jax import cli, distributed
from sora_jax.generation import codec as codec_lib
from sora_jax.text import pretrained
from sora_jax.training import metrics
from sora_jax.vae import streaming

_SHARD_BYTES = 256e6  # of clips, about; what is lost when a job is killed
_SHARD_CLIPS = 512  # at the most; they are encoded together where their sizes agree


def encode(
  clips: str | pathlib.Path, codec_folder: str | pathlib.Path, out: str | pathlib.Path,
  *, pieces: streaming.Pieces | None = None, sample: bool = False,
  clips_per_shard: int | None = None, text: pretrained.PretrainedText | None = None,
) -> pathlib.Path | None:  # fmt: skip
  """Encodes every split; returns the versioned folder of the new dataset.

  With `sample`, latents are drawn from the posterior instead of being its mean. Where
  other processes are still writing, None is returned; the last one gets the folder.
  """
  devices = jax.local_devices()
  codecs = [codec_lib.Codec(codec_folder, pieces, device=d) for d in devices]
  try:
    rows.open_source(str(clips), "train")
  except ValueError as error:
    raise ValueError(f"--clips: {error}") from error
  info = tfds.builder_from_directory(str(clips)).info
  made_from = {
    "clips": {name: split.num_bytes for name, split in info.splits.items()},
    "codec": codecs[0].fingerprint(),
    "sample": sample,
    "clips_per_shard": clips_per_shard,
    "text": text.fingerprint() if text else None,
  }
  standing = datasets.standing(out, made_from)
  if standing is not None:
    return standing

  sizes = {name: split.num_examples for name, split in info.splits.items()}
  per_clip = sum(made_from["clips"].values()) / max(1, sum(sizes.values()))
  fitting = min(_SHARD_CLIPS, max(1, round(_SHARD_BYTES / max(1.0, per_clip))))
  per_shard = clips_per_shard or fitting
  builder = latents.LatentsWithText if text else latents.Latents
  dataset = shards.ShardedDataset(
    out, builder, made_from, shards.plan(sizes, per_shard)
  )
  first, workers = jax.process_index() * len(devices), jax.device_count()
  mine = [dataset.unfinished(first + i, workers) for i in range(len(devices))]
  total = sum(shard.stop - shard.start for own in mine for shard in own)
  with (
    metrics.progress(total, desc="encode", unit="clip") as bar,
    concurrent.futures.ThreadPoolExecutor(len(devices)) as pool,
  ):
    def work(codec: codec_lib.Codec, own: list[shards.Shard]) -> None:
      for shard in own:
        examples = list(_examples(str(clips), shard, codec, sample, text))
        dataset.write(shard, iter(examples), **_sums(examples))
        bar.update(len(examples))

    # Whatever failed first is raised; what is finished stays.
    for done in [pool.submit(work, *pair) for pair in zip(codecs, mine)]:
      done.result()
  return dataset.finish(latents=_statistics)


def _examples(
  clips: str, shard: shards.Shard, codec: codec_lib.Codec, sample: bool,
  text: pretrained.PretrainedText | None,
) -> Iterator[datasets.Example]:  # fmt: skip
  found = _read(clips, shard)
  seeds = [zlib.crc32(record["id"]) for record in found] if sample else None
  encoded = codec.encode([record["video"] for record in found], seeds=seeds)
  captions = [record["caption"] for record in found]
  embedded = text.encode(captions) if text else [None] * len(found)
  for record, z_THWC, text_MD in zip(found, encoded, embedded):
    embedding = {} if text_MD is None else {"text": text_MD.astype(ml_dtypes.bfloat16)}
    yield {
      **embedding,
      "index": record["index"],
      "id": record["id"],
      "latents": z_THWC,
      "caption": record["caption"],
      "fps": record["fps"],
      "video_size": np.asarray(record["video"].shape[:3], np.int32),
    }


def _read(clips: str, shard: shards.Shard) -> list[records.Record]:
  """The shard's clips; raises ValueError with a list of those that cannot be used."""

  def parse(record: records.Record) -> records.Record:
    caption = checks.caption(record.get("caption"), may_be_empty=True)
    return {**record, "video": checks.video(record.get("video")), "caption": caption}

  read = records.Records(
    rows.open_source(clips, shard.split), clips, parse=parse,
    fields=("id", "video", "caption", "fps"), most_bad=shard.stop - shard.start,
  )  # fmt: skip
  found = [read.use(i, lambda record: record) for i in range(shard.start, shard.stop)]
  bad = [f"  {row['id']}: {row['reason']}, {row['detail']}" for row in read.rejected()]
  if bad:
    raise ValueError(
      f"--clips: {len(bad)} clips of {read.dataset} cannot be encoded; mend the dataset, "
      "or make it without them:\n" + "\n".join(bad)
    )
  return found


def _sums(examples: list[datasets.Example]) -> dict[str, Any]:
  """Per channel, over all latents of a shard."""
  flat = [e["latents"].reshape(-1, e["latents"].shape[-1]) for e in examples]
  values = np.concatenate(flat).astype(np.float64)
  return {
    "latents": len(values),
    "sum": values.sum(0).tolist(),
    "square": np.square(values).sum(0).tolist(),
  }


def _statistics(notes: list[dict[str, Any]]) -> dict[str, Any]:
  count = sum(note["latents"] for note in notes)
  mean = np.sum([note["sum"] for note in notes], axis=0) / count
  square = np.sum([note["square"] for note in notes], axis=0) / count
  deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
  return {"latents": count, "mean": mean.tolist(), "std": deviation.tolist()}


def main() -> None:
  distributed.initialize()
  pieces = streaming.Pieces(
    positions=_POSITIONS.value, tile=_TILE.value, overlap=_OVERLAP.value,
    dtype=_DTYPE.value,
  )  # fmt: skip
  text = None
  if _TEXT_ENCODER.value:
    text = pretrained.PretrainedText(
      _TEXT_ENCODER.value, max_tokens=_MAX_TEXT_TOKENS.value
    )
  dataset = encode(
    _CLIPS.value, _CODEC.value, _OUT.value, pieces=pieces, sample=_SAMPLE.value,
    clips_per_shard=_CLIPS_PER_SHARD.value, text=text,
  )  # fmt: skip
  print(dataset or "this process is done; others are still encoding")


if __name__ == "__main__":
  _DEFAULT = streaming.Pieces()
  _CLIPS = flags.DEFINE_string("clips", None, "Versioned folder of a clips dataset.")
  _CODEC = flags.DEFINE_string(
    "codec", None, "Workdir of a trained autoencoder, or a Wan VAE of diffusers."
  )
  _OUT = flags.DEFINE_string("out", None, "Folder to make; the dataset is below it.")
  _SAMPLE = flags.DEFINE_bool("sample", False, "Draw latents; else take the mean.")
  _POSITIONS = flags.DEFINE_integer(
    "positions", _DEFAULT.positions, "Latents on a device at once (t h w); memory."
  )
  _TILE = flags.DEFINE_integer(
    "tile", _DEFAULT.tile, "Latents along a side that go through at once; all if unset."
  )
  _OVERLAP = flags.DEFINE_integer("overlap", _DEFAULT.overlap, "Latents, of tiles.")
  _TEXT_ENCODER = flags.DEFINE_string(
    "text_encoder", None, "Folder of a T5, UMT5 or CLIP; embeds the captions."
  )
  _MAX_TEXT_TOKENS = flags.DEFINE_integer(
    "max_text_tokens", 512, "Longer captions are cut.", lower_bound=1
  )
  _CLIPS_PER_SHARD = flags.DEFINE_integer(
    "clips_per_shard", None, "By default about 256 MB of clips, and at most 512."
  )
  _DTYPE = flags.DEFINE_enum(
    "dtype", _DEFAULT.dtype, sorted(streaming.DTYPES), "What the network computes in."
  )
  flags.mark_flags_as_required(["clips", "codec", "out"])
  cli.run(main)
