"""Records of a dataset: read with patience, and left out where they cannot be used.

A record that cannot be used is skipped, and told of once, with its id and a reason out
of checks.py. The place of every other record stays what it was, so that the stream of
the others is the same in every process and after every resumption.

What ArrayRecord makes of damage (measured, array_record 0.8): a flipped byte costs the
record that it is in, by a hash; a shard that is cut short, empty or gone costs all of
its own, each with an exception where it is read, or an empty record where just 64 KiB
are left. Shards are opened when they are first read, and places are counted by the
lengths in dataset_info.json, so nothing else moves.

Used by: data_pipelines/rows.py, loader.py, crops.py, jobs/encode_latents.py. Next:
checks.py.
"""

import bisect
import collections
import contextlib
import itertools
import math
import pathlib
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines import checks

Record = dict[str, Any]
# Seconds before a read is tried again.
PAUSES = (0.05, 0.2, 0.8)
_HOPELESS = 3  # records of a shard in a row that failed all tries: then each gets one
_MOST_BYTES = 1 << 30  # of a tensor, when it is decompressed
_MOST_IN_A_ROW = 10_000  # records left out, before the dataset is called unusable
_LISTED = 20  # of bad records, in an error; of those too long, at all
_NAMED = 100_000  # records whose ids are kept, the last that were read
_ASKED, _ENOUGH = 64, 5  # records that are asked what all have in common; answers


class Records:
  """A dataset's records by their place, each as values that can be used."""

  def __init__(
    self, source: Any, path: str, *, fields: tuple[str, ...],
    parse: Callable[[Record], Record], most_bad: int,
    alike: Callable[[Record], dict[str, Any]] | None = None,
  ):  # fmt: skip
    """Reads a few records where `alike` asks what all of them have in common.

    Args:
      source: from `rows.open_source`.
      path: of the dataset, by which its records are called.
      fields: those that are decoded.
      parse: a decoded record -> what is used of it; raises `checks.Unusable`.
      most_bad: distinct bad records that this process endures.
      alike: of what `parse` returns, what must be the same in all records.

    Raises:
      ValueError: none of those records can be used, or too many cannot.
    """
    features = source.dataset_info.features
    known = {name: features[name] for name in fields if name in features}
    self._features = tfds.features.FeaturesDict(known)
    self._inflating = {name: _Inflate() for name, f in known.items() if _is_zlib(f)}
    self._source, self._fields, self._parse = source, fields, parse
    split = source.dataset_info.splits[source.split].file_instructions
    self._shards = [pathlib.PurePath(file.filename).name for file in split]
    self._bounds = list(itertools.accumulate(file.take for file in split))
    # Shard -> records in a row that failed. Each is another one: none is read again.
    self._failed: collections.Counter[int] = collections.Counter()
    self.dataset = path if source.split == "train" else f"{path}:{source.split}"
    self._most_bad = most_bad
    self._lock = threading.Lock()
    self._ids: dict[int, str] = {}  # of records, in the order in which they were read
    self._left_out: dict[int, str] = {}  # bad record -> reason
    self._bad: list[dict[str, Any]] = []
    self._news: list[dict[str, Any]] = []  # not told of yet
    self.too_long = 0  # times that a clip was left out for its length, which is not bad
    self._too_long_told: set[int] = set()
    self._in_a_row: collections.Counter[str] = collections.Counter()  # by reason
    self._alike, self.common = alike, {}
    if alike is not None:
      self.common = self._ask(alike)

  def __len__(self) -> int:
    return len(self._source)

  def use(self, index: int, make: Callable[[Record], Any]) -> Any:
    """What `make` makes of a record, or None where the record is left out.

    Raises:
      ValueError: too many records are bad, or no usable one comes any more.
    """
    reason = self._left_out.get(index)
    if reason is None:
      try:
        made = make(self._read(index))
        self._in_a_row.clear()
        return made
      except checks.Unusable as problem:
        reason = problem.reason
        self._leave_out(index, problem)
    self._in_a_row[reason] += 1
    if self._in_a_row.total() > _MOST_IN_A_ROW:
      raise ValueError(
        f"{self.dataset}: the last {self._in_a_row.total():,} records read were all left "
        f"out, by reason: {dict(self._in_a_row)}; it has {len(self):,}"
      )
    return None

  def is_bad(self, index: int) -> bool:
    """Whether the record is left out for good; not so where it is only too long."""
    return index in self._left_out

  def rejected(self) -> list[dict[str, Any]]:
    """Those left out since the last call; each is told of once.

    Of those that are too long, which may be most of a dataset, the first few only.
    """
    with self._lock:
      told, self._news = self._news, []
    return told

  def name(self, index: int) -> str:
    """DATASET#ID of a record read not long ago; else DATASET#INDEX. Reads nothing."""
    return f"{self.dataset}#{self._id(index)}"

  def _ask(self, alike: Callable[[Record], dict[str, Any]]) -> dict[str, Any]:
    """What most of a few records, spread over all, have in common."""
    golden = (math.sqrt(5) - 1) / 2
    asked = dict.fromkeys(int(len(self) * (i * golden % 1)) for i in range(_ASKED))
    answers = []
    for index in asked:
      answer = self.use(index, alike)
      answers += [] if answer is None else [answer]
      if len(answers) == _ENOUGH:
        break
    if not answers:
      raise ValueError(
        f"{self.dataset}: none of {len(asked)} records that were tried can be used:\n"
        + self._listed()
      )
    return max(answers, key=answers.count)

  def _read(self, index: int) -> Record:
    raw = self._raw(index)
    self._note_id(index, raw)
    try:
      record = self._features.deserialize_example_np(raw, decoders=self._inflating)
    except (checks.Unusable, MemoryError):  # the machine is full, the record is good
      raise
    except Exception as error:
      raise self._why(raw, error) from error
    values = self._parse(record)
    for name, usual in self.common.items():
      found = self._alike(values)[name]
      if found != usual:
        raise checks.Unusable(
          "wrong_shape", f"{name}: {found}, and {usual} in other records"
        )
    return {**values, "index": index}

  def _raw(self, index: int) -> bytes:
    """A record as it was written; what fails is tried again after a while."""
    shard = bisect.bisect_right(self._bounds, index)
    patient = self._failed[shard] < _HOPELESS
    for pause in (*(PAUSES if patient else ()), None):
      try:
        raw = self._source.data_source[index]
      except MemoryError:
        raise
      # ArrayRecord's own are RuntimeErrors, whatever they are about.
      except Exception as error:
        problem = f"{type(error).__name__}: {error}"
      else:
        if raw:
          del self._failed[shard]
          return raw
        problem = "the record is empty"
      if pause is not None:
        time.sleep(pause)
    self._failed[shard] += 1
    raise checks.Unusable("unreadable", f"{self._shards[shard]}: {printable(problem)}")

  def _why(self, raw: bytes, error: Exception) -> checks.Unusable:
    """What is wrong with bytes that cannot be decoded."""
    with contextlib.suppress(Exception):
      stored = _features_of(raw)
      there = {key.split("/")[0] for key in stored}
      missing = [name for name in self._fields if name not in there]
      if missing:
        return checks.Unusable("missing_field", f"no {', '.join(missing)}")
      # TFDS writes tensors without values, and cannot read them.
      for name in self._fields:
        key = f"{name}/shape"
        if key in stored and 0 in stored[key].int64_list.value:
          return checks.Unusable("wrong_shape", f"{name} has no values")
    return checks.Unusable(
      "unreadable", printable(f"cannot be decoded: {type(error).__name__}: {error}")
    )

  def _leave_out(self, index: int, problem: checks.Unusable) -> None:
    long = problem.reason == checks.TOO_LONG
    self.too_long += long
    # Whoever skips what is too long has asked for it; and it may be shorter the next
    # time, with fewer of its tokens.
    if long and (index in self._too_long_told or len(self._too_long_told) == _LISTED):
      return
    row = {
      "dataset": self.dataset, "index": index, "id": self._id(index),
      "reason": problem.reason, "detail": problem.detail,
    }  # fmt: skip
    with self._lock:
      self._news.append(row)
    if long:
      self._too_long_told.add(index)
      return
    self._left_out[index] = problem.reason
    self._bad.append(row)
    if len(self._bad) > self._most_bad:
      raise ValueError(
        f"{self.dataset}: {len(self._bad)} bad records, and max_bad_records is "
        f"{self._most_bad}:\n{self._listed()}\nMend the dataset, or leave out more with a "
        "larger max_bad_records" + self._advice()
      )

  def _listed(self) -> str:
    lines = [f"  {row['id']}: {row['reason']}, {row['detail']}" for row in self._bad]
    more = [f"  and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return "\n".join(lines[:_LISTED] + more)

  def _advice(self) -> str:
    if not any(row["reason"] == "empty_caption" for row in self._bad):
      return ""
    return "; with empty_captions, clips without captions are trained on as well"

  def _note_id(self, index: int, raw: bytes) -> None:
    """Keeps the record's own id for whoever asks; others are forgotten for it."""
    own = ""
    # Whatever is wrong with the record is told where it is decoded.
    with contextlib.suppress(Exception):
      feature = _features_of(raw)["id"]
      (own,) = feature.bytes_list.value or feature.int64_list.value
      own = own.decode(errors="replace") if isinstance(own, bytes) else str(own)
    with self._lock:
      self._ids.pop(index, None)
      self._ids[index] = printable(own)
      if len(self._ids) > _NAMED:
        del self._ids[next(iter(self._ids))]

  def _id(self, index: int) -> str:
    with self._lock:
      return self._ids.get(index, "") or str(index)


def printable(text: str) -> str:
  """One line without control characters, of bounded length."""
  return "".join(c if c.isprintable() else " " for c in text)[:200].strip()


def _features_of(raw: bytes) -> dict[str, Any]:
  return dict(tf_example_pb2.Example.FromString(raw).features.feature)


def _is_zlib(feature: Any) -> bool:
  if not isinstance(feature, tfds.features.Tensor):
    return False
  # Kinds of tensors of their own, such as texts, have no encoding.
  encoding = getattr(feature.to_json_content(), "encoding", "")
  return encoding == tfds.features.Encoding.ZLIB.value


class _Inflate(tfds.decode.Decoder):
  """Decompresses no more than the shape says, and no shape beyond a limit."""

  def decode_example(self, serialized_example: Any) -> np.ndarray:
    data, shape = serialized_example, self.feature.shape
    if isinstance(data, dict):
      data, shape = data["value"], [int(n) for n in data["shape"]]
    dtype = np.dtype(self.feature.np_dtype)
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > _MOST_BYTES:
      raise checks.Unusable("too_large", f"a tensor of {shape} {dtype}")
    decompressor = zlib.decompressobj()
    values = decompressor.decompress(data, size + 1)
    if len(values) != size or not decompressor.eof:
      raise ValueError(f"a tensor of {shape} is not what was compressed")
    return np.frombuffer(values, dtype).reshape(shape)

  decode_example_np = decode_example
