"""Decoding hostile media is bounded in time, memory and disk, in a process of its own.

How the bounds themselves hold is tested in tests/data_pipelines/test_isolated.py; here are
the files that would test them, through the call that `jobs/ingest.py` makes of each.
"""

import pathlib
import re
import struct
import time
import zlib

import av
import pytest

from data_pipelines import captioned_files, filters, isolated, spool
from data_pipelines.limits import Limits

MEMORY = 3 << 29  # bytes of address space: a worker's libraries, and no bomb


def png(width: int, height: int, data: bytes = b"") -> bytes:
  def chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(
    b"IEND", b""
  )


def bmp(width: int, height: int) -> bytes:
  info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
  return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def video(path: pathlib.Path, side: int, frames: int) -> None:
  with av.open(str(path), "w", format="mp4") as file:
    stream = file.add_stream("mpeg4", rate=8)
    stream.height, stream.width, stream.pix_fmt = side, side, "yuv420p"
    for t in range(frames):
      picture = av.VideoFrame(side, side, "yuv420p")
      for plane in picture.planes:
        plane.update(bytes([20 + 5 * t]) * plane.buffer_size)
      file.mux(stream.encode(picture))
    file.mux(stream.encode())


def make(folder: pathlib.Path) -> dict[str, str]:
  """Hostile files; their names, with the reason for which each must be skipped."""
  bomb = zlib.compress(bytes(300_000_000), 9)  # 300 KB that are 300 MB
  reasons = {
    "giant.png": ("too_large", png(60_000, 60_000)),
    "largest.png": ("too_large", png(2**31 - 1, 2**31 - 1)),
    "bomb.png": ("too_large", png(10_000, 10_000, bomb)),
    "more_than_it_says.png": ("", png(64, 64, bomb)),
    "giant.bmp": ("too_large", bmp(2**30, 2**30)),
    "thin.png": ("too_thin", png(1_000_000, 20, zlib.compress(bytes(60_000_020)))),
    "playlist.m3u8": ("unreadable", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
    "concat.txt.mp4": ("unreadable", b"ffconcat version 1.0\nfile /etc/passwd\n"),
    "page.svg": ("unsupported_codec", b'<svg><image href="file:///etc/passwd"/></svg>'),
    "code.eps": ("unreadable", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit"),
  }
  for name, (_, content) in reasons.items():
    (folder / name).write_bytes(content)
  video(folder / "large.mp4", 6400, 1)
  named = {name: reason for name, (reason, _) in reasons.items()}
  return {**named, "large.mp4": "too_large"}


def fill(*arguments) -> tuple:
  """In a worker: the file's row, and the most memory that the worker has taken."""
  row = spool.fill(*arguments)
  # Unlike ru_maxrss, which begins at that of the process that started this one.
  status = pathlib.Path("/proc/self/status").read_text()
  return row, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
  """(reason by file, what became of each, seconds)."""
  folder, out = (tmp_path_factory.mktemp(name) for name in ("in", "spool"))
  reasons = make(folder)
  video(folder / "fine.mp4", 64, 20)
  reasons["fine.mp4"] = ""
  calls = []
  for i, name in enumerate(reasons):
    file = captioned_files.CaptionedFile(path=str(folder / name), name=name)
    calls.append((name, (i, file, str(out), Limits(), filters.Thresholds())))
  began = time.monotonic()
  bounds = isolated.Bounds(seconds=30.0, memory=MEMORY, file_size=16 << 20)
  found = dict(isolated.run(fill, calls, workers=1, bounds=bounds))
  return reasons, found, time.monotonic() - began


def test_every_bomb_is_a_counted_skip(rows):
  reasons, found, seconds = rows
  for name, reason in reasons.items():
    assert isinstance(found[name], list), f"{name}: its process was lost ({found[name]})"
    row, _ = found[name]
    if reason:
      assert (row["status"], row["reason"]) == ("skipped", reason), name
  assert found["fine.mp4"][0]["all_clips"]
  assert seconds < 30


def test_no_file_takes_much_memory(rows):
  most = max((memory, name) for name, (_, memory) in rows[1].items())
  assert most[0] < MEMORY // 2, most
