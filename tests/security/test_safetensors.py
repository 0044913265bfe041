"""A header of safetensors is a stranger's claim: nothing is taken, or made room for."""

import json
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy

from sora_jax.weights import safetensors_files

DATA = np.arange(24, dtype=np.float32)


def entry(dtype="F32", shape=(24,), offsets=(0, 96)) -> dict:
  return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def file(header, data: bytes = DATA.tobytes(), length: int | None = None) -> bytes:
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  size = len(text) if length is None else length
  return (size % 2**64).to_bytes(8, "little") + text + data


GOOD = {"a": entry()}
BAD = {
  "empty": (b"", "header too large"),
  "seven bytes": (b"1234567", "header too large"),
  "no header": (file(b"", b""), "Expecting value"),
  "length 2**63": (file(GOOD, length=2**63), "header too large"),
  "length 2**64 - 1": (file(GOOD, length=-1), "header too large"),
  "length beyond the file": (file(GOOD, length=1000), "header too large"),
  "length of 17 MiB": (file(b" " * (17 << 20)), "header too large"),
  "length too short": (file(GOOD, length=20), "JSON|Unterminated|Expecting"),
  "not JSON": (file(b"{'a': 1}"), "Expecting"),
  "not UTF-8": (file(b'{"\xff": 1}'), "utf-8"),
  "a list": (file([1, 2]), "not a JSON object"),
  "deep": (file(b"[" * 200_000), "recursion|Expecting"),
  "deep inside": (file(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "recursion"),
  "a name twice": (file(b'{"a": ' + json.dumps(entry()).encode() + b', "a": 1}'), "twice"),
  "a field twice": (file(b'{"a": {"dtype": "F32", "dtype": "F16"}}'), "twice"),
  "no entry": (file({"a": 5}), "lacks dtype"),
  "no offsets": (file({"a": {"dtype": "F32", "shape": [24]}}), "lacks dtype"),
  "three offsets": (file({"a": entry(offsets=(0, 5, 96))}), "lacks dtype"),
  "unknown dtype": (file({"a": entry("F99")}), "F99.* is not read"),
  "dtype is NaN": (file({"a": entry(float("nan"))}), "is not read"),
  "dtype is a list": (file({"a": entry(["F32"])}), "is not read"),
  "negative shape": (file({"a": entry(shape=(-24,))}), "no sizes"),
  "two negatives": (file({"a": entry(shape=(-4, -6))}), "no sizes"),
  "fractional shape": (file({"a": entry(shape=(24.0,))}), "no sizes"),
  "true shape": (file({"a": entry(shape=(True, 24))}), "no sizes"),
  "text shape": (file({"a": entry(shape="24")}), "no sizes"),
  "huge shape": (file({"a": entry(shape=(2**62, 2**62))}), "not 8507"),
  "shape that overflows to its bytes": (
    file({"a": entry(shape=(2**32, 2**32, 1), offsets=(0, 0))}, b""), "has 0 bytes"),
  "dims without end": (file({"a": entry(shape=[1] * 100_000)}), "100000 dims"),
  "5000 digits": (file(b'{"a": {"shape": [' + b"9" * 5000 + b"]}}"), "digits"),
  "negative offsets": (file({"a": entry(offsets=(-96, 0))}), "no sizes"),
  "offsets turned round": (file({"a": entry(offsets=(96, 0))}), "has -96 bytes"),
  "offsets beyond the file": (
    file({"a": entry(shape=(48,), offsets=(0, 192))}), "192 bytes, and the file has 96"),
  "too many bytes": (file({"a": entry(offsets=(0, 100))}), "has 100 bytes, not 96"),
  "a hole": (file({"a": entry("U8", (10,), (86, 96))}), "begins at byte 86, and must at 0"),
  "overlap": (
    file({"a": entry("U8", (60,), (0, 60)), "b": entry("U8", (60,), (36, 96))}),
    "begins at byte 36, and must at 60"),
  "the same bytes twice": (file({"a": entry(), "b": entry()}), "begins at byte 0, and"),
  "cut": (file(GOOD, DATA.tobytes()[:50]), "96 bytes, and the file has 50"),
  "longer": (file(GOOD, DATA.tobytes() + b"more"), "96 bytes, and the file has 100"),
  "metadata of numbers": (file({**GOOD, "__metadata__": {"a": 1}}), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_by_name_in_little_memory(name, tmp_path):
  content, message = BAD[name]
  path = tmp_path / "model.safetensors"
  path.write_bytes(content)
  tracemalloc.start()
  with pytest.raises(ValueError, match=message) as error:
    safetensors_files.read(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert str(path) in str(error.value) and len(str(error.value)) < 1000
  assert peak < 40 << 20


def test_good_ones_are_read(tmp_path):
  arrays = {"a": DATA, "b": np.zeros((0, 3), np.int8), "c": np.array(3.0), "d": DATA[:5]}
  safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors", metadata={"x": "y"})
  found = safetensors_files.read(tmp_path)
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(np.asarray(found[name]), array)


@pytest.mark.parametrize(
  "name",
  ["../m.safetensors", "/etc/passwd", "..", ".", "", "a/b", "a\\u0000b", "\\ud800", 5, None,
   [1], "x" * 5000],
)  # fmt: skip
def test_an_index_stays_in_its_folder(name, tmp_path):
  (tmp_path / "m.safetensors").write_bytes(file(GOOD))
  folder = tmp_path / "model"
  folder.mkdir()
  index = json.dumps({"weight_map": {"a": name}}).replace("\\\\u", "\\u")
  (folder / "m.safetensors.index.json").write_text(index)
  with pytest.raises(ValueError, match=r"m\.safetensors\.index\.json (names|is not)"):
    safetensors_files.read(folder)
