"""Which clips are worth training on: measures of a clip, and thresholds on them.

Every clip gets all measures, kept or not, so that thresholds can be chosen by looking at
the report. A threshold of 0 turns its filter off.

Shapes: T frames, H height, W width; pixels are uint8 RGB; luma is 0..1.
Used by: jobs/ingest.py.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import imagehash
import numpy as np
from PIL import Image

_SIDE = 128  # pixels of the longer side on which motion is measured
_TEXT_SIDE = 128  # pixels of the shorter side below which text cannot be told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
  """A clip outside any of them is dropped, with that reason."""

  min_brightness: float = 0.06  # luma of the brightest 5 % of pixels: `black`
  min_change: float = 0.001  # mean change of luma from frame to frame: `static`
  min_motion: float = 0.0  # optical flow, frame widths per second: `low_motion`
  max_text: float = 0.0  # share of the frame under overlaid text: `text_overlay`
  duplicate_bits: int = 3  # of 64 of a perceptual hash that differ: `near_duplicate`

  def reason(self, measures: "Measures") -> str:
    """Why a clip is dropped, empty where it is kept; duplicates are told elsewhere."""
    still = measures.frames > 1
    checks = {
      "black": measures.brightness < self.min_brightness,
      "static": still and measures.change < self.min_change,
      "low_motion": still and measures.motion < self.min_motion,
      "text_overlay": bool(self.max_text) and measures.text > self.max_text,
    }
    return next((reason for reason, dropped in checks.items() if dropped), "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measures:
  """Of one clip; see `measure`."""

  frames: int
  brightness: float
  change: float
  motion: float
  text: float
  hash: str  # 64 bits, in hexadecimal


def measure(clip: np.ndarray, fps: float) -> Measures:
  """All measures of a clip, uint8 [T, H, W, 3]. An image neither changes nor moves."""
  luma = clip.astype(np.float32) @ np.float32([0.299, 0.587, 0.114]) / 255.0
  change = float(np.abs(np.diff(luma, axis=0)).mean()) if len(clip) > 1 else 0.0
  middle = clip[len(clip) // 2]
  return Measures(
    frames=len(clip),
    brightness=round(float(np.quantile(luma, 0.95)), 4),
    change=round(change, 5),
    motion=round(_motion(luma) * fps, 4),
    text=round(min(text_share(frame) for frame in (clip[0], middle, clip[-1])), 4),
    hash=str(imagehash.phash(Image.fromarray(middle))),
  )


def drop_duplicates(rows: Sequence[dict[str, Any]], bits: int) -> None:
  """Drops clips that look like one of an earlier file, in the order of `rows`.

  `rows` are those of the report (spool.py); what follows from a dropped clip is changed
  in them too. Clips of one file are not compared: they are meant to be alike.
  """
  if not bits:
    return
  seen: dict[bool, list[dict[str, Any]]] = {True: [], False: []}  # images, videos
  for row in rows:
    kept = [clip for clip in row["all_clips"] if not clip["reason"]]
    for clip in kept:
      # An image and a video that look alike are two things to learn from.
      others = seen[clip["frames"] == 1]
      hashes = np.array([int(other["hash"], 16) for other in others], np.uint64)
      near = np.bitwise_count(hashes ^ np.uint64(int(clip["hash"], 16))) <= bits
      if near.any():
        first = others[int(np.argmax(near))]["clip"]
        clip |= {"reason": "near_duplicate", "duplicate_of": first}
    left = [clip for clip in kept if not clip["reason"]]
    for clip in left:
      seen[clip["frames"] == 1].append(clip)
    if len(left) < len(kept):
      row |= {"clips": len(left), "frames": sum(clip["frames"] for clip in left)}
      if not left:
        row |= {"status": "skipped", "reason": "filtered"}


def _motion(luma_THW: np.ndarray) -> float:
  """Mean length of the optical flow, in frame widths per frame (Farneback 2003)."""
  scale = _SIDE / max(luma_THW.shape[1:])
  frames = [
    cv2.resize((x * 255).astype(np.uint8), None, fx=min(1, scale), fy=min(1, scale))
    for x in luma_THW
  ]
  lengths = [
    np.linalg.norm(
      cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 9, 3, 5, 1.1, 0), axis=-1
    ).mean()
    for a, b in zip(frames[:-1], frames[1:])
  ]
  return float(np.mean(lengths)) / frames[0].shape[1] if lengths else 0.0


def text_share(frame: np.ndarray) -> float:
  """The share of a frame under lines of overlaid text, as subtitles and banners.

  Lines are where strokes of high contrast stand close together in a wide, low box that
  they fill evenly. A guess without a learned detector: dense texture in a row, as of a
  fence, can look the same. 0 for frames with a side below 128 pixels.
  """
  if min(frame.shape[:2]) < _TEXT_SIDE:
    return 0.0
  gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
  edges = cv2.morphologyEx(gray, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
  strokes = (edges > 90).astype(np.uint8)
  height, width = strokes.shape
  reach = max(5, width // 40) | 1  # joins the letters and words of a line
  lines = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, reach), np.uint8))
  count, _, boxes, _ = cv2.connectedComponentsWithStats(lines)
  covered = 0
  for x, y, w, h, area in boxes[1:count]:
    filled = area / (w * h)
    inside = strokes[y : y + h, x : x + w].mean()
    # Of a line of letters: wide, not higher than a title, and half of it is strokes.
    if w > 3 * h and 6 <= h <= height / 6 and filled > 0.6 and 0.3 < inside < 0.95:
      covered += w * h
  return covered / (height * width)
