"""Latents -> PackedTokens: shuffle, patchify, drop tokens, pack, batch (on Grain).

Clips of any size are laid one after another into rows of `tokens_per_row` tokens by
Grain's first-fit packer; their captions are packed alongside into `text_tokens_per_row`
text tokens. Dropping tokens at a rate drawn per clip is NaViT's (arXiv:2307.06304).

Shapes: as in sora_jax/api.py; n tokens of one clip, m tokens of its caption.
Used by: configs/, mixture.py. Next: rows.py, records.py, sora_jax/training/loop.py.
"""

import math
from typing import Any

import grain
import numpy as np
from grain import experimental as grain_experimental

from data_pipelines import checks, records
from data_pipelines import rows as rows_lib
from sora_jax import api
from sora_jax.configlib import config
from sora_jax.nn import patches
from sora_jax.text import tokenizers

# What the position in a row depends on, with the number of records; not the path, since
# a dataset may be moved.
_ORDER = ("split", "rows", "seed", "packing_bins", "token_drop", "tokens_per_row",
          "text_tokens_per_row", "max_clips_per_row")  # fmt: skip


@config
class PackedLatents:
  """A dataset of latents as rows of packed tokens (an `api.BatchSource`)."""

  path: str = ""  # versioned folder of the latents dataset
  split: str = "train"
  rows: int = 16  # of the global batch
  tokens_per_row: int = 128
  text_tokens_per_row: int = 64
  max_clips_per_row: int = 12
  packing_bins: int = 32  # rows that a row's packer fills at a time
  patch: tuple[int, int, int] = (1, 1, 1)  # the model's
  tokenizer: tokenizers.Tokenizer
  token_drop: float = 0.0  # each clip drops a share drawn from [0, token_drop]
  skip_too_long: bool = False  # leave out clips longer than a row instead of an error
  empty_captions: bool = False  # train on clips without a caption, too
  # Left out before the run stops (checks.py): by one process, since it was started.
  max_bad_records: int = 100
  seed: int = 0

  def open(self, rows: range) -> rows_lib.RowBatches:
    """The stream of the given rows of the global batch.

    Raises:
      ValueError: no such dataset, or none with embeddings where they are asked for;
        later, from the stream, a clip longer than a row, or too many bad records.
    """
    if not 0.0 <= self.token_drop < 1.0:
      raise ValueError(f"token_drop must be in [0, 1), got {self.token_drop}")
    if self.tokenizer.max_tokens > self.text_tokens_per_row:
      raise ValueError(
        f"text_tokens_per_row ({self.text_tokens_per_row}) must hold a caption of "
        f"tokenizer.max_tokens ({self.tokenizer.max_tokens})"
      )
    source = rows_lib.open_source(self.path, self.split)
    if self._stored and "text" not in source.dataset_info.features:
      raise ValueError(
        f"tokenizer=StoredEmbeddings needs captions as embeddings, and {self.path} "
        "has none: encode the clips with --text_encoder"
      )
    read = records.Records(
      source, self.path, parse=self._parse, alike=_alike, most_bad=self.max_bad_records,
      fields=("latents", "caption", "fps", *(["text"] if self._stored else [])),
    )  # fmt: skip

    def make_row(row: int, left_out: set[int]) -> grain.IterDataset:
      stream = rows_lib.row_stream(
        read, Tokenize(self), row, self.rows, self.seed, left_out
      )
      return self._pack(stream, row)

    return rows_lib.RowBatches(rows, make_row, collate, read, self.order(len(read)))

  def order(self, size: int) -> dict[str, Any]:
    """What a position in a dataset of `size` records is a position of, as JSON."""
    return {"records": size, **{name: getattr(self, name) for name in _ORDER}}

  @property
  def _stored(self) -> bool:
    return isinstance(self.tokenizer, tokenizers.StoredEmbeddings)

  def _parse(self, record: records.Record) -> records.Record:
    """The values of a record that are used; raises `checks.Unusable`."""
    values = {
      "latents": checks.latents(record.get("latents"), self.patch),
      "caption": checks.caption(
        record.get("caption"), may_be_empty=self.empty_captions
      ),
      "fps": checks.fps(record.get("fps")),
    }
    if self._stored:
      most = self.tokenizer.max_tokens
      values["text"] = checks.embeddings(record.get("text"), most)
    return values

  def _pack(self, stream: grain.IterDataset, row: int) -> grain.IterDataset:
    tokens, clips = self.tokens_per_row, self.max_clips_per_row
    return grain_experimental.FirstFitPackIterDataset(
      stream,
      length_struct={
        "tokens": tokens, "positions": tokens, "text": self.text_tokens_per_row,
        "sizes": clips, "fps": clips, "clip_ids": clips,
      },
      meta_features=("positions", "sizes", "fps", "clip_ids"),
      num_packing_bins=self.packing_bins, max_sequences_per_bin=clips,
      shuffle_bins=True, seed=self.seed + row,
    )  # fmt: skip


def _alike(values: records.Record) -> dict[str, Any]:
  """What the packer needs to be the same in all records."""
  text = values.get("text")
  embedded = {} if text is None else {"width of text": text.shape[1], "text": text.dtype}
  return {"channels of latents": values["latents"].shape[-1], **embedded}


class Tokenize(grain.transforms.RandomMap):
  """One record, as `PackedLatents` parsed it -> the arrays of one segment."""

  def __init__(self, config: PackedLatents):
    self._config = config

  def random_map(
    self, record: records.Record, rng: np.random.Generator
  ) -> dict[str, np.ndarray]:
    latents_THWC, caption = record["latents"], record["caption"]
    size = patches.grid(latents_THWC.shape, self._config.patch)
    keep = self._keep(math.prod(size), rng)
    if len(keep) > self._config.tokens_per_row:
      raise self._too_long(caption, size)
    tokens = patches.patchify(latents_THWC, self._config.patch)
    return {
      "tokens": tokens[keep],
      "positions": patches.positions(size)[keep],
      "text": self._text(record),
      "sizes": np.asarray([size], np.int32),
      "fps": np.float32([record["fps"]]),
      # One more than the index, because the packer pads with zeros.
      "clip_ids": np.asarray([record["index"] + 1], np.int32),
    }

  def _text(self, record: records.Record) -> np.ndarray:
    tokenizer = self._config.tokenizer
    if isinstance(tokenizer, tokenizers.StoredEmbeddings):
      return tokenizer.fit(record["text"])
    return tokenizer.encode(record["caption"])

  def _keep(self, num: int, rng: np.random.Generator) -> np.ndarray:
    rate = rng.uniform(0.0, self._config.token_drop)
    count = max(1, round(num * (1.0 - rate)))
    return np.sort(rng.choice(num, count, replace=False)) if rate else np.arange(num)

  def _too_long(self, caption: str, size: tuple[int, int, int]) -> Exception:
    config, num = self._config, math.prod(size)
    if config.skip_too_long:
      return checks.Unusable(
        checks.TOO_LONG, f"{num} tokens of {config.tokens_per_row} that a row has"
      )
    return ValueError(
      f"the clip {caption[:60]!r} has {num} tokens ({size[0]}x{size[1]}x{size[2]} "
      f"patches), more than a row: raise tokens_per_row (now {config.tokens_per_row}), "
      "make the clips smaller or shorter, or leave such clips out with skip_too_long"
    )


def collate(batch: dict[str, np.ndarray]) -> api.PackedTokens:
  """The packer's stacked rows, by the names of `PackedTokens`."""
  segment_ids = batch["tokens_segment_ids"].astype(np.int32)
  return api.PackedTokens(
    tokens=batch["tokens"],
    positions=batch["positions"],
    segment_ids=segment_ids,
    known=np.zeros(segment_ids.shape, bool),
    text=batch["text"],
    text_segment_ids=batch["text_segment_ids"].astype(np.int32),
    text_positions=batch["text_positions"].astype(np.int32),
    sizes=batch["sizes"],
    fps=batch["fps"],
    clip_ids=batch["clip_ids"] - 1,
    text_dropped=np.zeros(batch["clip_ids"].shape, bool),
  )
