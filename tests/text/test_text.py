"""Tokenizers and the default text encoder."""

import jax
import numpy as np
import pytest

from sora_jax.nn.skeleton import Skeleton
from sora_jax.text import encoder, tokenizers

WORDS = tokenizers.WordTokenizer(vocab_size=512, max_tokens=8)


def test_words_are_hashed_the_same_everywhere():
  ids = WORDS.encode("A Red circle, 東京!")
  assert ids[0] == tokenizers.BEGIN and len(ids) == 7
  np.testing.assert_array_equal(ids, WORDS.encode("a red CIRCLE , 東京 !"))
  # CRC-32 is the same on every machine, unlike Python's hash.
  assert WORDS.encode("red")[1] == 2 + 0xFA615F8F % 510
  assert ids.min() >= 1 and ids.max() < 512


def test_bytes_round_trip():
  tokenizer = tokenizers.ByteTokenizer()
  ids = tokenizer.encode("naïve 🎬")
  assert bytes((ids[1:] - 2).tolist()).decode() == "naïve 🎬"
  assert ids.max() < tokenizer.vocab_size


@pytest.mark.parametrize("tokenizer", [WORDS, tokenizers.ByteTokenizer(max_tokens=8)])
def test_long_captions_are_cut_with_a_warning(tokenizer):
  with pytest.warns(UserWarning, match=r"is cut to 7 .*max_tokens=8"):
    ids = tokenizer.encode("one two three four five six seven eight nine")
  assert len(ids) == 8
  np.testing.assert_array_equal(tokenizer.encode(""), [tokenizers.BEGIN])


def test_captions_are_encoded_as_if_alone():
  config = encoder.TextEncoderConfig(tokenizer=WORDS, width=16, depth=2, num_heads=2)
  skeleton = Skeleton.of(config.make)
  model = skeleton.merge(*skeleton.init(jax.random.key(0)))
  ids = np.asarray([[1, 5, 6, 1, 7, 8, 9, 0]])
  segments = np.asarray([[1, 1, 1, 2, 2, 2, 2, 0]])
  places = np.asarray([[0, 1, 2, 0, 1, 2, 3, 0]])
  none = np.zeros((1, 3), bool)
  together = model(ids, segments, places, none)
  alone = model(ids[:, 3:7], segments[:, 3:7] - 1, places[:, 3:7], none)
  np.testing.assert_allclose(together[:, 3:7], alone, atol=1e-5)
  # A dropped caption says nothing, whatever it was.
  dropped = model(ids, segments, places, np.asarray([[True, False, False]]))
  np.testing.assert_array_equal(dropped[0, 0], dropped[0, 2])
  np.testing.assert_allclose(dropped[:, 3:7], together[:, 3:7], atol=1e-6)
