"""What clips of a user's file look like, and how much the file may cost.

Shapes: H height, W width.
Used by: media.py, spool.py, jobs/ingest.py.
"""

import dataclasses
import math


class MediaError(Exception):
  """A file that gives no clip: `reason` is a short code, `detail` says more.

  Reasons: not_a_file, empty, unreadable, truncated, damaged, no_video,
  unsupported_codec, too_large, too_small, too_thin, too_short, timeout.
  """

  def __init__(self, reason: str, detail: object = ""):
    super().__init__(f"{reason}: {detail}")
    self.reason = reason
    self.detail = str(detail)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """What clips look like, and how much a file may cost."""

  max_pixels: int = 4096  # of a frame of a clip: its area
  min_side: int = 16  # pixels, of a frame of the file and of a clip
  multiple: int = 8  # that the sides of a clip are
  fps: float = 8.0  # of a clip
  max_frames: int = 17  # of a clip; 1 + 4k
  min_frames: int = 5  # of a clip that is not an image
  split_shots: bool = True  # no clip goes across a cut
  max_clips: int = 8  # of a file
  max_seconds: float = 60.0  # of a file that are read
  timeout: float = 60.0  # seconds that reading a file may take
  max_source_pixels: int = 40_000_000  # of a frame of the file; 8K video passes

  def __post_init__(self) -> None:
    if self.fps <= 0:
      raise ValueError(f"fps={self.fps} must be above 0")
    if self.min_frames < 1:
      raise ValueError(f"min_frames={self.min_frames} must be at least 1")
    if self.max_frames < 1 or self.max_frames % 4 != 1:
      raise ValueError(f"max_frames={self.max_frames} must be 1 + 4k, such as 17")
    least = self.min_side**2
    if self.max_pixels < least:
      raise ValueError(f"max_pixels={self.max_pixels} must be at least {least}")


def grid_size(
  height: float, width: float, *, max_pixels: int, multiple: int = 8, min_side: int = 16
) -> tuple[int, int]:
  """(H, W) of a clip of a source: about its proportions, at most `max_pixels`.

  The sides are multiples of `multiple`, rounded up or down so that the proportions are
  closest to native. They are never longer than the source's.

  Raises:
    MediaError: the source is too_small, or too_thin for sides of `min_side`.
  """
  if min(height, width) < min_side:
    raise MediaError("too_small", f"{width:.0f}x{height:.0f}, a side below {min_side}")
  scale = min(1.0, math.sqrt(max_pixels / (height * width)))
  low_h, low_w = (int(s * scale) // multiple * multiple for s in (height, width))
  sizes = [
    (h, w)
    for h in (low_h, low_h + multiple)
    for w in (low_w, low_w + multiple)
    if min_side <= h <= height and min_side <= w <= width and h * w <= max_pixels
  ]
  if not sizes:
    raise MediaError("too_thin", f"{width:.0f}x{height:.0f} as {max_pixels} pixels")
  return min(sizes, key=lambda s: (abs(math.log(s[1] / s[0] * height / width)), -s[0]))


def cover_and_grid(height: float, width: float, limits: Limits) -> list[tuple[int, int]]:
  """[size of native proportions that just covers the grid size, the grid size]."""
  grid = grid_size(
    height, width,
    max_pixels=limits.max_pixels, multiple=limits.multiple, min_side=limits.min_side,
  )  # fmt: skip
  scale = max(grid[0] / height, grid[1] / width)
  return [(round(height * scale), round(width * scale)), grid]
