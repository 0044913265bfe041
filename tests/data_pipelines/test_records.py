"""Bad records are left out and told of; nothing else moves."""

import itertools
import shutil
import tracemalloc
import zlib

import ml_dtypes
import numpy as np
import pytest

from data_pipelines import checks, crops, loader, records, rows
from data_pipelines.builders import folder_clips
from data_pipelines.builders import latents as latents_builder
from sora_jax.text import tokenizers
from tests.data_pipelines import damage

NUM, PER_SHARD = 40, 10


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  return damage.write(tmp_path_factory.mktemp("good"), NUM, PER_SHARD)


@pytest.fixture
def dataset(good, tmp_path):
  """A copy, to be damaged."""
  return shutil.copytree(good, tmp_path / "copy")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  monkeypatch.setattr(records, "PAUSES", (0.0, 0.0, 0.0))


def packed(path, **changes) -> loader.PackedLatents:
  fields = {
    "path": str(path), "rows": 4, "tokens_per_row": 64, "text_tokens_per_row": 32,
    "packing_bins": 4, "max_clips_per_row": 6,
    "tokenizer": tokenizers.WordTokenizer(vocab_size=64, max_tokens=8),
  }  # fmt: skip
  return loader.PackedLatents(**{**fields, **changes})


def take(stream, num):
  return list(itertools.islice(iter(lambda: next(stream), None), num))


def given(batches) -> set[int]:
  return {int(i) for batch in batches for i in batch.clip_ids.ravel() if i >= 0}


def told(stream) -> dict[int, str]:
  return {row["index"]: row["reason"] for row in stream.rejected()}


NAN = np.full((1, 2, 2, 4), np.nan, np.float32)
ONES = np.ones((2, 4, 4, 4), np.float32)
# What is done to one record each, and what it is called.
EDITS = [
  (b"", "unreadable"),
  (b"\xff" * 100, "unreadable"),
  (damage.drop("caption"), "missing_field"),
  (damage.drop("fps"), "missing_field"),
  (damage.drop("latents/shape", "latents/value"), "missing_field"),
  (damage.drop("latents/value"), "unreadable"),
  (damage.put("caption", 3), "wrong_dtype"),
  (damage.put("caption", b"  \n"), "empty_caption"),
  (damage.put("caption", b"\xff\xfe"), "bad_caption"),
  (damage.put("caption", b"long " * 300_000), "bad_caption"),
  (damage.put("fps", 0.0), "bad_fps"),
  (damage.put("fps", -8.0), "bad_fps"),
  (damage.put("fps", 1e6), "bad_fps"),
  (damage.put("fps", float("nan")), "not_finite"),
  (damage.put("fps", b"fast"), "unreadable"),
  (damage.latents_of(NAN), "not_finite"),
  (damage.latents_of(ONES.astype(np.float64)), "unreadable"),
  (damage.latents_of(ONES[..., :3]), "wrong_shape"),
  (damage.latents_of(ONES[:0]), "wrong_shape"),
  (damage.put("latents/shape", 2, 4, 4, 2**40), "unreadable"),
  (damage.put("latents/shape", 2**15, 2**15, 2**15, 4), "unreadable"),
]  # fmt: skip


def test_every_kind_of_bad_record_is_left_out_and_told_of_once(dataset):
  places = [*range(1, NUM, 2), 0]
  damage.edit(dataset, {i: change for i, (change, _) in zip(places, EDITS)})
  expected = {i: reason for i, (_, reason) in zip(places, EDITS, strict=True)}
  stream = packed(dataset).open(range(4))
  batches = take(stream, 16)
  assert given(batches) == set(range(NUM)) - set(expected)
  rejected = stream.rejected()
  assert {row["index"]: row["reason"] for row in rejected} == expected
  assert len(rejected) == len(expected)
  assert all(row["dataset"] == str(dataset) and row["detail"] for row in rejected)
  # The empty record and the one of junk have no id to read.
  assert {row["id"] for row in rejected} == {
    "1", "3", *(f"clip{i}" for i in expected if i not in (1, 3))
  }
  take(stream, 16)
  assert stream.rejected() == []


def test_the_order_of_the_others_is_what_it_was(good, dataset):
  bad = {3: damage.put("fps", 0.0), 17: b"", 18: damage.drop("caption")}
  damage.edit(dataset, bad)
  for row in range(4):
    stream = packed(dataset, packing_bins=1).open(range(row, row + 1))
    ids = [i for b in take(stream, 30) for i in b.clip_ids.ravel() if i >= 0]
    order = rows.order(NUM, row, 4, 0)
    expected = [i for i in map(int, (order[k] for k in range(200))) if i not in bad]
    assert ids == expected[: len(ids)] and len(ids) > NUM


@pytest.mark.parametrize("stop", [1, 6])
def test_a_restored_stream_goes_on_exactly(dataset, stop):
  damage.edit(dataset, dict.fromkeys(range(0, NUM, 3), b"junk"))
  stream = packed(dataset, token_drop=0.5).open(range(4))
  take(stream, stop)
  state = stream.get_state()
  expected = take(stream, 5)
  for part in (range(1), range(1, 4)):
    fresh = packed(dataset, token_drop=0.5).open(part)
    fresh.set_state(state)
    for got, want in zip(take(fresh, 5), expected):
      np.testing.assert_array_equal(got.tokens, want.tokens[part.start : part.stop])
      np.testing.assert_array_equal(got.clip_ids, want.clip_ids[part.start : part.stop])


def flip(place: int):
  def damaged(content: bytes) -> bytes:
    return content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]

  return damaged


# Of the second shard: (content -> other content, how many of its records are lost).
BROKEN = {
  "missing": (None, 10), "empty": (lambda c: b"", 10),
  "zeros": (lambda c: bytes(len(c)), 10),
  "one_block": (lambda c: c[:65536], 10), "cut_inside": (lambda c: c[:70000], 10),
  "cut_at_the_end": (lambda c: c[:-1], 10), "longer": (lambda c: c + b"abc", 10),
  "flipped_header": (flip(70), 1), "flipped_record": (flip(150), 1),
  "flipped_index": (flip(65536), 10),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_a_bad_shard_costs_its_own_records_only(good, dataset, how):
  change, lost = BROKEN[how]
  path = damage.shard_files(dataset)[1]
  content = path.read_bytes()
  path.unlink()
  if change:
    path.write_bytes(change(content))
  stream = packed(dataset).open(range(4))
  batches = take(stream, 16)
  assert told(stream) == dict.fromkeys(range(10, 10 + lost), "unreadable")
  assert given(batches) == set(range(NUM)) - set(range(10, 10 + lost))
  originals = rows.open_source(str(good), "train")
  for batch in batches[:4]:
    for r, s in zip(*np.nonzero(batch.clip_ids >= 0)):
      latents = originals[int(batch.clip_ids[r, s])]["latents"]
      found = batch.tokens[r, batch.segment_ids[r] == s + 1]
      np.testing.assert_array_equal(found, latents.reshape(found.shape))


def test_a_shard_with_fewer_records_than_declared(dataset):
  files = damage.shard_files(dataset)
  short = damage.write(dataset.parent / "short", 7)
  shutil.copy(damage.shard_files(short)[0], files[3])
  stream = packed(dataset).open(range(4))
  take(stream, 16)
  assert told(stream) == dict.fromkeys((37, 38, 39), "unreadable")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_damaged_description_is_named(dataset, name):
  (dataset / name).write_bytes((dataset / name).read_bytes()[:100])
  with pytest.raises(ValueError, match=rf"{name} is not JSON"):
    packed(dataset).open(range(4))


class Flaky:
  """A reader that fails so many times for some records."""

  def __init__(self, inner, failures: dict[int, int]):
    self.inner, self.failures, self.reads = inner, failures, 0

  def __len__(self):
    return len(self.inner)

  def __getitem__(self, index):
    self.reads += 1
    if self.failures.get(index, 0):
      self.failures[index] -= 1
      raise RuntimeError("read() failed: Stale file handle")
    return self.inner[index]


def flaky(dataset, failures) -> tuple[records.Records, Flaky]:
  source = rows.open_source(str(dataset), "train")
  source.data_source = Flaky(source.data_source, failures)
  read = records.Records(
    source, "d", fields=("caption",), parse=lambda record: record, most_bad=100
  )
  return read, source.data_source


def test_a_read_that_fails_is_tried_again(good, monkeypatch):
  waited = []
  monkeypatch.setattr(records.time, "sleep", waited.append)
  monkeypatch.setattr(records, "PAUSES", (0.1, 0.2))
  read, source = flaky(good, {7: 2, 8: 10**6, 6: 1, 12: 1, 4: 1})
  assert read.use(7, lambda record: record["caption"]) == b"clip number 0"
  assert waited == [0.1, 0.2] and read.rejected() == []
  assert read.use(8, lambda record: record) is None
  assert waited == [0.1, 0.2] * 2
  assert read.rejected() == [{
    "dataset": "d", "index": 8, "id": "8", "reason": "unreadable",
    "detail": "latents-train.array_record-00000-of-00004: RuntimeError: read() failed: "
              "Stale file handle",
  }]  # fmt: skip
  # One bad record takes no patience from the others of its shard.
  assert read.use(6, lambda record: record["caption"]) == b"clip number 6"
  assert waited == [0.1, 0.2] * 2 + [0.1]
  # What is known to be bad is not read again.
  reads = source.reads
  assert read.use(8, lambda record: record) is None and source.reads == reads


def test_a_shard_that_fails_and_fails_gets_no_more_patience(good, monkeypatch):
  waited = []
  monkeypatch.setattr(records.time, "sleep", waited.append)
  monkeypatch.setattr(records, "PAUSES", (0.1,))
  read, _ = flaky(good, {0: 9, 1: 9, 2: 9, 3: 9, 12: 1, 5: 1})
  assert [read.use(i, lambda record: record) for i in (0, 1, 2)] == [None] * 3
  assert waited == [0.1] * 3
  assert read.use(3, lambda record: record) is None and len(waited) == 3
  assert read.use(12, lambda record: record["index"]) == 12 and len(waited) == 4
  # Until one of its records is read again.
  assert read.use(4, lambda record: record["index"]) == 4
  assert read.use(5, lambda record: record["index"]) == 5 and len(waited) == 5


def test_a_full_memory_makes_no_record_bad(good, monkeypatch):
  read, source = flaky(good, {})

  def full(*args, **kwargs):
    raise MemoryError

  for place, name in (
    (type(source), "__getitem__"), (type(read._features), "deserialize_example_np")
  ):  # fmt: skip
    with monkeypatch.context() as patch:
      patch.setattr(place, name, full)
      with pytest.raises(MemoryError):
        read.use(7, lambda record: record)
  assert read.rejected() == []
  assert read.use(7, lambda record: record["index"]) == 7


def test_above_the_limit_the_run_stops_and_lists_them(dataset):
  damage.edit(dataset, {i: damage.put("fps", 0.0) for i in (4, 5, 6)})
  stream = packed(dataset, max_bad_records=3).open(range(4))
  take(stream, 16)
  stream = packed(dataset, max_bad_records=2).open(range(4))
  with pytest.raises(ValueError, match=r"3 bad records.*max_bad_records is 2") as error:
    take(stream, 16)
  for i in (4, 5, 6):
    assert f"clip{i}: bad_fps, fps is 0.0" in str(error.value)
  assert "larger max_bad_records" in str(error.value)
  # What stopped the run is still told of.
  assert told(stream) == dict.fromkeys((4, 5, 6), "bad_fps")
  with pytest.raises(ValueError, match="1 bad records"):
    take(packed(dataset, max_bad_records=0).open(range(4)), 16)


def test_an_error_lists_twenty(dataset):
  damage.edit(dataset, {i: damage.put("caption", b"") for i in range(10, 40)})
  with pytest.raises(ValueError, match="and 6 more") as error:
    take(packed(dataset, max_bad_records=25).open(range(4)), 40)
  assert str(error.value).count(": empty_caption, ") == 20
  assert "with empty_captions, clips" in str(error.value)


def test_empty_captions_where_they_are_wanted(dataset):
  damage.edit(dataset, {i: damage.put("caption", b"") for i in range(10, 40)})
  stream = packed(dataset, empty_captions=True).open(range(4))
  assert given(take(stream, 16)) == set(range(NUM))
  assert stream.rejected() == []


def test_skipped_long_clips_are_told_of_once_and_not_counted(good, monkeypatch):
  monkeypatch.setattr(records, "_MOST_IN_A_ROW", 25)
  monkeypatch.setattr(records, "_LISTED", 40)
  stream = packed(
    good, tokens_per_row=20, skip_too_long=True, max_bad_records=0
  ).open(range(4))
  left = set(range(NUM)) - given(take(stream, 40))
  rejected = stream.rejected()
  assert {row["index"]: row["reason"] for row in rejected} == dict.fromkeys(
    left, "too_long"
  )
  assert len(rejected) == len(left) > 0
  # Nothing is kept of those behind the first few, but their count.
  monkeypatch.setattr(records, "_LISTED", 3)
  stream = packed(
    good, tokens_per_row=20, skip_too_long=True, max_bad_records=0
  ).open(range(4))
  take(stream, 40)
  assert len(stream.rejected()) == 3 < len(left) <= stream.records.too_long


def test_a_long_clip_that_goes_bad_is_told_of(good):
  read, source = flaky(good, {})

  def long(record):
    raise checks.Unusable(checks.TOO_LONG, "far too long")

  assert [read.use(4, long), read.use(4, long), read.too_long] == [None, None, 2]
  source.failures[4] = 10**6
  assert read.use(4, long) is None and read.is_bad(4)
  assert [row["reason"] for row in read.rejected()] == ["too_long", "unreadable"]


def test_a_stream_that_has_nothing_left_ends(good, monkeypatch):
  monkeypatch.setattr(records, "_MOST_IN_A_ROW", 200)
  stream = packed(good, tokens_per_row=1, skip_too_long=True).open(range(4))
  with pytest.raises(ValueError, match=r"last 201 .* left out.*\{'too_long': 201\}"):
    next(stream)


def test_what_records_have_in_common_is_what_most_have(dataset):
  """Also where the first one is the odd one."""
  damage.edit(dataset, {i: damage.latents_of(ONES[..., :3]) for i in (0, 1, 2)})
  stream = packed(dataset).open(range(4))
  take(stream, 16)
  assert told(stream) == dict.fromkeys((0, 1, 2), "wrong_shape")
  with pytest.raises(ValueError, match=r"none of 4. records that were tried"):
    packed(dataset, patch=(5, 5, 5)).open(range(4))


def test_names(dataset):
  damage.edit(dataset, {3: b"", 4: damage.put("id", b"a\x1b[31m/\xff.mp4")})
  stream = packed(dataset).open(range(4))
  take(stream, 16)
  assert stream.names([17, 3, 4, 99]) == [
    f"{dataset}#clip17", f"{dataset}#3", f"{dataset}#a [31m/�.mp4", f"{dataset}#99"
  ]  # fmt: skip


def test_names_read_nothing_and_are_of_the_last_records(good, monkeypatch):
  monkeypatch.setattr(records, "_NAMED", 2)
  read, source = flaky(good, {})
  for index in (1, 2, 1, 3):
    read.use(index, lambda record: record)
  reads = source.reads
  assert [read.name(i) for i in (1, 2, 3, 30)] == ["d#clip1", "d#2", "d#clip3", "d#30"]
  assert source.reads == reads


def test_embeddings(tmp_path):
  def make(index: int):
    text = np.ones((3 if index else 1, 5 if index == 4 else 6), ml_dtypes.bfloat16)
    text[-1, -1] = np.nan if index in (5, 6) else 0
    text = text[:0] if index == 7 else np.tile(text, (3 if index == 6 else 1, 1))
    if index == 6:
      text[: 2 * 3] = 0  # only what is cut away is not finite
    return {**damage.example(index), "text": text}

  dataset = damage.write(tmp_path, 12, builder=latents_builder.LatentsWithText, make=make)
  tokenizer = tokenizers.StoredEmbeddings(max_tokens=6)
  stream = packed(dataset, tokenizer=tokenizer).open(range(4))
  take(stream, 16)
  assert told(stream) == {4: "wrong_shape", 5: "not_finite", 7: "wrong_shape"}


CLIP = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  def make(index: int):
    return {"id": f"clip{index}", "video": CLIP + index, "caption": "", "fps": 0.0}

  return damage.write(
    tmp_path_factory.mktemp("clips"), 8, 4, builder=folder_clips.FolderClips, make=make
  )


def test_crops_leave_out_bad_videos(clips, tmp_path):
  dataset = shutil.copytree(clips, tmp_path / "copy")
  shape = ("video/shape", 2, 4, 4, 3)
  damage.edit(dataset, {
    1: damage.drop("video/value", "video/shape"), 2: damage.put("video/value", b"junk"),
    3: damage.put(shape[0], 2, 4, 3, 3), 4: damage.put(shape[0], 99999, 99999, 99999, 3),
    5: damage.put("video/value", zlib.compress(CLIP.tobytes())[:-2]),
  })  # fmt: skip
  stream = crops.ClipCrops(path=str(dataset), rows=2, crop=(1, 2, 2)).open(range(2))
  seen = {int(i) for batch in take(stream, 24) for i in batch["video"][:, 0, 0, 0, 0]}
  assert seen == {0, 6, 7}
  expected = ["missing_field", "unreadable", "unreadable", "too_large", "unreadable"]
  assert told(stream) == dict(enumerate(expected, 1))
  with pytest.raises(ValueError, match="max_bad_records is 2"):
    source = crops.ClipCrops(path=str(dataset), rows=2, crop=(1, 2, 2), max_bad_records=2)
    take(source.open(range(2)), 24)


def test_a_record_is_not_decompressed_beyond_its_shape(clips, tmp_path):
  dataset = shutil.copytree(clips, tmp_path / "copy")
  bomb = zlib.compress(bytes(50_000_000), 1)
  damage.edit(dataset, {2: damage.put("video/value", bomb)})
  stream = crops.ClipCrops(path=str(dataset), rows=2, crop=(1, 2, 2)).open(range(2))
  tracemalloc.start()
  take(stream, 8)
  assert tracemalloc.get_traced_memory()[1] < 5_000_000
  tracemalloc.stop()
  assert told(stream) == {2: "unreadable"}


@pytest.mark.parametrize(
  ("value", "reason"),
  [(None, "missing_field"), (CLIP.astype(np.float32), "wrong_dtype"), (b"", "wrong_dtype"),
   (CLIP[0], "wrong_shape"), (CLIP[..., :2], "wrong_shape"), (CLIP[:0], "wrong_shape")],
)  # fmt: skip
def test_videos(value, reason):
  assert checks.video(CLIP) is CLIP
  with pytest.raises(checks.Unusable) as problem:
    checks.video(value)
  assert problem.value.reason == reason
