"""The words and captions of the world of moving shapes."""

import itertools

import numpy as np
import pytest

from sora_jax.evals import shapes_world as world
from sora_jax.evals.shapes_world import ObjectSpec
from sora_jax.text import tokenizers


def test_held_out_kinds_leave_every_pair_in_training():
  assert len(world.HELD_OUT) == 14 and len(world.TRAINED) == 82
  for i, j in itertools.combinations(range(3), 2):
    every = {(kind[i], kind[j]) for kind in world.ALL_KINDS}
    assert {(kind[i], kind[j]) for kind in world.TRAINED} == every
  for i, table in enumerate((world.COLORS, world.SHAPES, world.MOTIONS)):
    assert {kind[i] for kind in world.HELD_OUT} == set(table)


def test_captions_are_parsed_back():
  kinds = sorted(world.ALL_KINDS)
  for kind, other in zip(kinds, kinds[40:] + kinds[:40]):
    for relation in (None, *world.RELATIONS):
      for objects in (
        (ObjectSpec(*kind),),
        (ObjectSpec(*kind), ObjectSpec(*other)),
        (ObjectSpec(*kind[:2], None), ObjectSpec(*other[:2], None)),
      ):
        if relation and len(objects) == 1:
          continue
        text = world.caption(objects, relation)
        assert world.parse_caption(text) == (objects, relation), text
  with pytest.raises(ValueError, match="not a caption of moving shapes"):
    world.parse_caption("a red circle dances")


def test_the_words_have_ids_of_their_own():
  """Hashed words may collide; those of this world do not."""
  words = {"a", "an", "moves", "and", *world.COLORS, *world.SHAPES, *world.MOTIONS,
           *world.RELATIONS}  # fmt: skip
  tokenizer = tokenizers.WordTokenizer(vocab_size=4096, max_tokens=24)
  ids = {int(tokenizer.encode(word)[1]) for word in words}
  assert len(ids) == len(words)


def test_shapes_have_nearly_one_area_and_stand_where_they_should():
  for shape in world.SHAPES:
    mask = world.coverage(shape, 40, 40, np.float32([18.3, 21.7]), 7.0)
    area = np.pi * 49
    assert abs(mask.sum() - area) < 0.1 * area
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert abs((rows[0] + rows[-1] + 1) / 2 - 18.3) < 1.0
    assert abs((columns[0] + columns[-1] + 1) / 2 - 21.7) < 1.0
