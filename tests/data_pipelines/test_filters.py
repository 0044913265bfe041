"""Measures of clips, the cuts between shots, and what is dropped for them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from data_pipelines import filters, shots


def scene(seed: int, height: int = 144, width: int = 192) -> np.ndarray:
  """A smooth picture of its own."""
  rng = np.random.default_rng(seed)
  small = rng.integers(30, 226, (9, 12, 3)).astype(np.uint8)
  return np.asarray(Image.fromarray(small).resize((width, height), Image.BICUBIC))


def pan(seed: int, frames: int = 9, step: int = 3) -> np.ndarray:
  wide = scene(seed, width=192 + frames * step)
  return np.stack([wide[:, t * step : t * step + 192] for t in range(frames)])


def write_on(frame: np.ndarray, *lines: str) -> np.ndarray:
  picture = Image.fromarray(frame)
  draw = ImageDraw.Draw(picture)
  font = ImageFont.load_default(14)
  for i, line in enumerate(lines):
    draw.text((8, 90 + 18 * i), line, "white", font, stroke_width=1, stroke_fill="black")
  return np.asarray(picture)


def reason(clip: np.ndarray, **thresholds) -> str:
  return filters.Thresholds(**thresholds).reason(filters.measure(clip, fps=8.0))


def test_reasons():
  assert reason(pan(0)) == ""
  assert reason(np.repeat(pan(0)[:1], 9, axis=0)) == "static"
  assert reason(pan(0)[:1]) == ""  # an image may stand still
  assert reason(pan(0) // 25) == "black"
  assert reason(pan(0) // 25, min_brightness=0.0, min_change=0.0) == ""
  assert reason(pan(0, step=1), min_motion=0.1) == "low_motion"
  assert reason(pan(0, step=6), min_motion=0.1) == ""


def test_motion_is_in_frame_widths_per_second():
  """3 of 192 pixels, 8 times a second."""
  motion = filters.measure(pan(1), fps=8.0).motion
  assert motion == pytest.approx(8 * 3 / 192, rel=0.2)


def test_text_is_told_from_pictures():
  lines = ("Subscribe for more videos", "and leave a comment below")
  text = np.stack([write_on(frame, *lines) for frame in pan(2)])
  share, without = (filters.measure(x, 8.0).text for x in (text, pan(2)))
  assert without == 0.0 and 0.05 < share < 0.35
  assert reason(text, max_text=0.04) == "text_overlay"
  assert reason(pan(2), max_text=0.04) == ""
  # Shapes with sharp edges are not text.
  picture = Image.fromarray(scene(3))
  ImageDraw.Draw(picture).rectangle((20, 20, 120, 90), "white", "black", 3)
  ImageDraw.Draw(picture).ellipse((100, 60, 180, 130), "red")
  assert filters.text_share(np.asarray(picture)) == 0.0


def test_duplicates_are_dropped_in_the_order_of_files():
  def row(name, *clips):
    measured = [filters.measure(clip, 8.0) for clip in clips]
    return {
      "status": "kept", "reason": "", "clips": len(clips),
      "all_clips": [
        {"clip": f"{name}#{i}", "reason": "", "frames": m.frames, "hash": m.hash}
        for i, m in enumerate(measured)
      ],
    }  # fmt: skip

  noise = np.random.default_rng(0).integers(-4, 5, pan(0).shape)
  noisy = np.clip(pan(0) + noise, 0, 255).astype(np.uint8)
  rows = [row("a", pan(0), pan(0)), row("b", noisy, pan(5)), row("c", noisy),
          row("d", pan(0)[:1]), row("e", scene(0)[None])]  # fmt: skip
  filters.drop_duplicates(rows, bits=3)
  assert [[c["reason"] for c in r["all_clips"]] for r in rows[:4]] == [
    ["", ""], ["near_duplicate", ""], ["near_duplicate"], [""]
  ]  # fmt: skip
  assert rows[1]["all_clips"][0]["duplicate_of"] == "a#0"
  assert rows[2]["status"] == "skipped" and rows[2]["reason"] == "filtered"
  assert (rows[1]["clips"], rows[1]["frames"]) == (1, 9)


def test_windows_do_not_cross_cuts():
  """Three shots, one of them a fast pan; images come out as they went in."""
  images = [*pan(0, 12), *pan(7, 21, step=5), *pan(9, 10)]
  found = list(shots.windows(images, 8.0, max_frames=17))
  assert [(first, len(window)) for first, window, _ in found] == [
    (0, 12), (12, 17), (29, 4), (33, 10)
  ]  # fmt: skip
  out = [image for _, window, _ in found for image in window]
  assert len(out) == len(images) and all(a is b for a, b in zip(out, images))


def test_one_shot_is_not_cut():
  """Nor by a flash of light, which comes and goes."""
  images = list(pan(0, 30))
  assert [len(w) for _, w, _ in shots.windows(images, 8.0, max_frames=100)] == [30]
  assert not list(shots.windows([], 8.0, max_frames=17))
