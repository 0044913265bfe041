"""Packing: what goes in comes out, in an order that does not know of processes."""

import itertools

import numpy as np
import pytest

from data_pipelines import crops, loader, rows
from sora_jax.nn import patches


@pytest.fixture
def source(helpers, latents_path):
  return helpers.tiny_config(latents_path).data


def take(iterator, num):
  return list(itertools.islice(iter(lambda: next(iterator), None), num))


def test_every_segment_is_its_clip(source, latents_path, helpers):
  records = rows.open_source(latents_path, "train")
  seen = set()
  for batch in take(source.open(range(8)), 6):
    for r, s in zip(*np.nonzero(batch.clip_ids >= 0)):
      record = records[int(batch.clip_ids[r, s])]
      where = batch.segment_ids[r] == s + 1
      expected = patches.patchify(record["latents"], source.patch)
      np.testing.assert_array_equal(batch.tokens[r, where], expected)
      np.testing.assert_array_equal(batch.sizes[r, s], record["latents"].shape[:3])
      np.testing.assert_array_equal(
        batch.positions[r, where], patches.positions(record["latents"].shape[:3])
      )
      words = batch.text_segment_ids[r] == s + 1
      caption = helpers.TOKENIZER.encode(record["caption"].decode())
      np.testing.assert_array_equal(batch.text[r, words], caption)
      np.testing.assert_array_equal(batch.text_positions[r, words], range(len(caption)))
      assert batch.fps[r, s] == 8.0
      seen.add(int(batch.clip_ids[r, s]))
    assert ((batch.segment_ids > 0).sum(1) == np.prod(batch.sizes, -1).sum(1)).all()
  assert len(seen) == len(records)


def test_an_epoch_holds_every_clip_once(source, latents_path):
  num = len(rows.open_source(latents_path, "train"))
  source.rows, source.packing_bins = 1, 2
  stream = source.open(range(1))
  ids = [i for batch in take(stream, 60) for i in batch.clip_ids.ravel() if i >= 0]
  # The packer may swap neighbors, and bins are emitted in a shuffled order.
  counts = np.bincount(ids[: 3 * num], minlength=num)
  assert abs(counts - 3).max() <= 1


def test_rows_do_not_know_of_processes(source):
  whole = take(source.open(range(8)), 3)
  parts = [take(source.open(part), 3) for part in (range(3), range(3, 8))]
  for step in range(3):
    tokens = [part[step].tokens for part in parts]
    np.testing.assert_array_equal(np.concatenate(tokens), whole[step].tokens)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_restored_stream_goes_on_exactly(source, stop):
  stream = source.open(range(8))
  take(stream, stop)
  state = stream.get_state()
  expected = take(stream, 3)
  # Restored by two processes, each with its rows of the state.
  for part in (range(4), range(4, 8)):
    fresh = source.open(part)
    fresh.set_state(state)
    for got, want in zip(take(fresh, 3), expected):
      np.testing.assert_array_equal(got.tokens, want.tokens[part.start : part.stop])


def test_a_state_of_other_rows_is_refused(source):
  with pytest.raises(ValueError, match=r"rows \[7\].*another data\.rows"):
    source.open(range(8)).set_state(source.open(range(7)).get_state())


def test_dropped_tokens_keep_their_positions(source, latents_path):
  source.token_drop = 0.9
  records = rows.open_source(latents_path, "train")
  kept = total = 0
  for batch in take(source.open(range(8)), 4):
    for r, s in zip(*np.nonzero(batch.clip_ids >= 0)):
      latents = records[int(batch.clip_ids[r, s])]["latents"]
      where = batch.segment_ids[r] == s + 1
      t, h, w = batch.positions[r, where].T
      np.testing.assert_array_equal(batch.tokens[r, where], latents[t, h, w])
      kept, total = kept + where.sum(), total + np.prod(latents.shape[:3])
  assert 0.4 < kept / total < 0.7


def test_a_clip_longer_than_a_row(source):
  source.tokens_per_row = 20
  with pytest.raises(ValueError, match=r"has \d+ tokens .*tokens_per_row \(now 20\)"):
    take(source.open(range(8)), 20)
  source.skip_too_long = True
  sizes = [batch.sizes for batch in take(source.open(range(8)), 5)]
  assert np.prod(np.concatenate(sizes), -1).max() <= 20


def test_missing_datasets_and_splits_are_named(source, latents_path):
  source.path = "nowhere"
  with pytest.raises(ValueError, match=r"no dataset at 'nowhere'.*versioned folder"):
    source.open(range(8))
  source.path, source.split = latents_path, "valid"
  with pytest.raises(ValueError, match=r"splits \['train'\], not 'valid'"):
    source.open(range(8))


def test_crops_of_short_and_small_clips():
  video = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
  crop = crops.RandomCrop((3, 4, 8)).random_map({"video": video}, np.random.default_rng())
  assert crop["video"].shape == (3, 4, 8, 3)
  np.testing.assert_array_equal(crop["video"][2], crop["video"][1])
  edge = crop["video"][:, :, 4:5]
  np.testing.assert_array_equal(crop["video"][:, :, 5:], edge.repeat(3, 2))


def test_collate_numbers_clips_from_zero(source):
  batch = next(source.open(range(8)))
  assert isinstance(batch, loader.api.PackedTokens)
  assert (batch.clip_ids.max(1) >= 0).all() and batch.clip_ids.min() >= -1
