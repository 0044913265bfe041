"""Captions -> token ids, with no vocabulary file to download.

Id 0 is padding and id 1 begins every caption, so that an empty caption still has one
token. Tokenizers are plain configs: picklable for data workers, stored in config.json.

Used by: data_pipelines/loader.py, generation/canvas.py.
"""

import re
import warnings
import zlib

import numpy as np

from sora_jax.configlib import config

BEGIN = 1
_FIRST = 2  # the first id that stands for text
_WORD = re.compile(r"\w+|[^\w\s]")


@config
class WordTokenizer:
  """Lower-cased words and punctuation marks, hashed (CRC-32) into a fixed vocabulary.

  Two words share an id with probability 1 / vocab_size; any word of any language has
  one. Good for captions with a small vocabulary.
  """

  vocab_size: int = 4096
  max_tokens: int = 32

  def encode(self, caption: str) -> np.ndarray:
    """Ids, int32 [1 .. max_tokens]. Warns where the caption is cut."""
    words = _WORD.findall(caption.lower())
    span = self.vocab_size - _FIRST
    ids = [_FIRST + zlib.crc32(word.encode()) % span for word in words]
    return _finish(ids, self.max_tokens, caption)


@config
class ByteTokenizer:
  """UTF-8 bytes: no collisions and no unknown words, about five tokens a word."""

  max_tokens: int = 256

  @property
  def vocab_size(self) -> int:
    return _FIRST + 256

  def encode(self, caption: str) -> np.ndarray:
    """Ids, int32 [1 .. max_tokens]. Warns where the caption is cut."""
    return _finish([_FIRST + b for b in caption.encode()], self.max_tokens, caption)


@config
class StoredEmbeddings:
  """Stands where a tokenizer would: the dataset holds captions as embeddings.

  Wan was trained on captions that are followed by zeros up to 512 tokens, to which its
  cross-attention pays attention: its weights need `padded=512` to be what they were.
  """

  max_tokens: int = 512  # longer captions are cut
  padded: int = 0  # shorter ones are followed by zero embeddings, up to this many

  def __post_init__(self) -> None:
    if self.padded > self.max_tokens:
      raise ValueError(
        f"tokenizer.padded={self.padded} must be at most max_tokens={self.max_tokens}"
      )

  def fit(self, embeddings: np.ndarray) -> np.ndarray:
    """[m, D] -> [at least `padded`, at most `max_tokens`, D]."""
    cut = np.asarray(embeddings)[: self.max_tokens]
    return np.pad(cut, ((0, max(0, self.padded - len(cut))), (0, 0)))


Tokenizer = WordTokenizer | ByteTokenizer | StoredEmbeddings


def _finish(ids: list[int], max_tokens: int, caption: str) -> np.ndarray:
  if len(ids) > max_tokens - 1:
    warnings.warn(
      f"caption of {len(ids)} tokens is cut to {max_tokens - 1} (tokenizer.max_tokens="
      f"{max_tokens}): {caption[:60]!r}...",
      stacklevel=3,
    )
  return np.asarray([BEGIN, *ids[: max_tokens - 1]], np.int32)
