"""Images of a video -> windows that do not cross the cut from one shot to the next.

Used by: media.py.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

_LOOK_AHEAD = 2  # images that the detector compares a cut with, on either side


def windows(
  images: Iterable[np.ndarray], fps: float, max_frames: int, *, split: bool = True
) -> Iterator[tuple[int, list[np.ndarray], bool]]:
  """(number of the first image, images, more): up to `max_frames` images in a row.

  The last window of a shot is as long as what is left of it; `more` says that the video
  goes on. Without `split`, the whole video is one shot.
  """
  window, start = [], 0
  marked = mark_cuts(images, fps) if split else ((image, False) for image in images)
  for number, (image, is_first) in enumerate(marked):
    if window and (is_first or len(window) == max_frames):
      yield start, window, True
      window, start = [], number
    window.append(image)
  if window:
    yield start, window, False


def mark_cuts(
  images: Iterable[np.ndarray], fps: float
) -> Iterator[tuple[np.ndarray, bool]]:
  """Every image [H, W, 3] RGB of a video, and whether it is the first of a shot.

  A cut is a change of content that stands out from those before and after it
  (PySceneDetect's AdaptiveDetector). Holds back a few images, not the video.
  """
  detector = AdaptiveDetector(min_scene_len=2, window_width=_LOOK_AHEAD)
  held: list[np.ndarray] = []
  cuts, number = {0}, 0  # the number of the first image that is held
  for index, image in enumerate(images):
    held.append(image)
    bgr = np.ascontiguousarray(image[..., ::-1])
    found = detector.process_frame(FrameTimecode(index, fps), bgr)
    cuts |= {cut.frame_num for cut in found}
    while len(held) > _LOOK_AHEAD:
      yield held.pop(0), number in cuts
      number += 1
  for image in held:
    yield image, number in cuts
    number += 1
