"""Reads one media file of a user, whatever is in it, as clips for training.

A file is judged by its content, not by its name. What cannot be read is a `MediaError`
with a short reason; what was read in part is kept, with a warning. Time and memory are
bounded. Frames come out upright, with square pixels and native proportions, at one
frame rate, in sizes that the models take: 1 + 4k frames, sides that are multiples of 8.

Shapes: T frames, H height, W width; pixels are uint8 RGB.
Used by: jobs/ingest.py. Next: pixels.py.
"""

import dataclasses
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from PIL import Image, ImageOps

from data_pipelines import pixels, shots
from data_pipelines.limits import Limits, MediaError, cover_and_grid

# Without EPS and the like, for which Pillow starts other programs, and without GIF,
# which FFmpeg reads with its timing.
_IMAGE_FORMATS = ("AVIF", "BMP", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_COVER_ART = Disposition.attached_pic | Disposition.timed_thumbnails
_TEXT_ART = ("adf", "bin", "idf", "tty", "xbin")  # FFmpeg plays any text as a video
_CLOCK_SLACK = 2e-3  # seconds; containers round the times of frames to milliseconds


Keep = Callable[[np.ndarray, int], Any]  # uint8 [T, H, W, 3], number of its first frame


@dataclasses.dataclass
class Media:
  """The clips of a file, and what happened on the way."""

  clips: list[Any] = dataclasses.field(default_factory=list)  # what `keep` returned
  source_size: tuple[int, int] = (0, 0)  # height, width, as displayed
  seconds: float = 0.0  # of the file that were read
  dropped_frames: int = 0  # at the ends of shots, too few for another clip
  warnings: list[str] = dataclasses.field(default_factory=list)  # short codes


def read(
  path: pathlib.Path, limits: Limits, keep: Keep = lambda clip, first: clip
) -> Media:
  """Reads the clips of a video or an image; an image is one clip of one frame.

  `keep(clip, number of its first frame)` is called with each clip as it comes, and what
  it returns stands in `clips`: so one clip at a time is in memory. Clips follow one
  another in time without overlap, and do not cross cuts. Warnings: damaged (read up to the
  damage), timeout (read until then), size_changed (read until then), bad_timestamps
  (frames out of order left out), repeated_frames (most frames are there twice, as the
  file is slower than `limits.fps`), interlaced, hdr (tone-mapped), more (the file goes
  on after `limits.max_clips` or `limits.max_seconds`), first_frame (of an image that
  has several).

  Raises:
    MediaError: the file gives no clip.
  """
  if not path.is_file():  # a pipe would block for ever
    raise MediaError("not_a_file")
  if not path.stat().st_size:
    raise MediaError("empty")
  return _read_image(path, limits, keep) or _read_video(path, limits, keep)


def _check_source_size(height: int, width: int, limits: Limits) -> None:
  if height * width > limits.max_source_pixels:
    raise MediaError("too_large", f"{width}x{height}")


def _read_image(path: pathlib.Path, limits: Limits, keep: Keep) -> Media | None:
  """The one-frame clip of a still image, None if the file is anything else.

  By Pillow, since FFmpeg does not notice that an image is truncated.
  """
  warnings.filterwarnings("ignore", module="PIL")  # what is wrong is in the report
  try:
    image = Image.open(path, formats=_IMAGE_FORMATS)
  except Image.DecompressionBombError as error:
    raise MediaError("too_large", error) from error
  except Exception:  # Pillow's parsers raise nearly anything on odd files
    return None
  with image:
    several = getattr(image, "is_animated", False)
    if several and image.format == "PNG":
      return None  # FFmpeg plays it; of other formats we take the first frame
    _check_source_size(image.height, image.width, limits)
    try:
      rgb = pixels.image_to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:
      truncated = "truncated" in str(error)
      raise MediaError("truncated" if truncated else "unreadable", error) from error
  (height, width), grid = cover_and_grid(rgb.height, rgb.width, limits)
  frame = np.asarray(rgb.resize((width, height), Image.Resampling.BOX))
  clip = keep(pixels.center_crop(frame, grid)[None], 0)
  return Media(
    [clip], (rgb.height, rgb.width), warnings=["first_frame"] if several else []
  )


def _read_video(path: pathlib.Path, limits: Limits, keep: Keep) -> Media:
  media = Media()
  # A playlist could name files outside of the user's folder, or of the network.
  options = {"protocol_whitelist": "none"}
  try:
    with (
      path.open("rb") as file,
      av.open(file, metadata_errors="ignore", container_options=options) as container,
    ):
      stream = _pick_stream(container, limits)
      aspect = float(stream.sample_aspect_ratio or 1)
      frames = _resample(_timed_frames(container, stream, limits, media), limits.fps)
      _cut(_images(frames, aspect, limits, media), limits, media, keep)
  except av.DecoderNotFoundError as error:
    raise MediaError("unsupported_codec", error) from error
  except (av.FFmpegError, OSError) as error:
    raise MediaError("unreadable", error.strerror) from error
  if not media.clips:
    causes = [code for code in media.warnings if code in ("damaged", "timeout")]
    raise MediaError((causes or ["too_short"])[0], f"{media.dropped_frames} frames")
  return media


def _pick_stream(container: InputContainer, limits: Limits) -> av.VideoStream:
  if container.format.name in _TEXT_ART:
    raise MediaError("unreadable", "text")
  streams = [s for s in container.streams.video if not s.disposition & _COVER_ART]
  if not streams:
    raise MediaError("no_video")
  stream = max(streams, key=lambda s: bool(s.disposition & Disposition.default))
  context = stream.codec_context
  if context is None:
    raise MediaError("unsupported_codec", "unknown to FFmpeg")
  # Before a frame is decoded, and for all that follow, whatever their headers claim.
  _check_source_size(context.height, context.width, limits)
  context.options = {"max_pixels": str(limits.max_source_pixels)}
  return stream


def _timed_frames(
  container: InputContainer, stream: av.VideoStream, limits: Limits, media: Media
) -> Iterator[tuple[float, av.VideoFrame]]:
  """(seconds since the first frame, frame) in order, as long as all is well."""
  deadline = time.monotonic() + limits.timeout
  step = 1 / float(stream.guessed_rate or 25)  # only for frames without a time
  start = previous = None
  try:
    for packet in container.demux(stream):
      if time.monotonic() > deadline:
        return _warn(media, "timeout")
      for frame in packet.decode():
        if frame.is_corrupt:
          _warn(media, "damaged")
          if start is None:
            continue  # as of a recording that was joined in the middle
          return  # the frames after it are made from it
        now = frame.time if frame.pts is not None else (previous or 0.0) + step
        if start is None:
          start, first = now, frame
        elif now <= previous:
          _warn(media, "bad_timestamps")
          continue
        if (frame.width, frame.height) != (first.width, first.height):
          return _warn(media, "size_changed")
        if now - start > limits.max_seconds:
          return _warn(media, "more")
        previous, media.seconds = now, now - start
        yield now - start, frame
  except av.FFmpegError:
    if start is None:
      raise
    _warn(media, "damaged")


def _resample(
  frames: Iterator[tuple[float, av.VideoFrame]], fps: float
) -> Iterator[av.VideoFrame]:
  """What is on screen at 0, 1 / fps, 2 / fps ... until the last frame appears."""
  shown, count = None, 0
  for seconds, frame in frames:
    while shown is not None and count / fps < seconds - _CLOCK_SLACK:
      yield shown
      count += 1
    shown = frame
  if shown is not None and count / fps <= seconds + _CLOCK_SLACK:
    yield shown


def _images(
  frames: Iterator[av.VideoFrame], aspect: float, limits: Limits, media: Media
) -> Iterator[np.ndarray]:
  """[H, W, 3] upright and on the grid; only these small copies stay in memory."""
  converted = image = None
  count = repeats = 0
  try:
    for frame in frames:
      count, repeats = count + 1, repeats + (frame is converted)
      if frame is not converted:
        converted, image = frame, _frame_to_rgb(frame, aspect, limits, media)
      yield image
  finally:
    if repeats > count / 2:
      _warn(media, "repeated_frames")


def _frame_to_rgb(
  frame: av.VideoFrame, aspect: float, limits: Limits, media: Media
) -> np.ndarray:
  """[H, W, 3]: upright, its pixels square, on the grid."""
  matrix = pixels.display_matrix(frame)
  turned = pixels.is_turned(matrix)
  # As displayed; `aspect` is the width of a stored pixel in heights.
  size = (frame.height, frame.width * aspect)[:: -1 if turned else 1]
  media.source_size = round(size[0]), round(size[1])
  cover, grid = cover_and_grid(*size, limits)
  if pixels.is_hdr(frame):
    _warn(media, "hdr")
  if frame.interlaced_frame:
    _warn(media, "interlaced")
  rgb = pixels.frame_to_rgb(frame, cover[::-1] if turned else cover)
  return pixels.center_crop(pixels.upright(rgb, matrix), grid)


def _cut(
  images: Iterator[np.ndarray], limits: Limits, media: Media, keep: Keep
) -> None:
  """Fills `media.clips` with windows of 1 + 4k frames, none of them across a cut."""
  for first, window, more in shots.windows(
    images, limits.fps, limits.max_frames, split=limits.split_shots
  ):
    length = (len(window) - 1) // 4 * 4 + 1
    if length < limits.min_frames:
      media.dropped_frames += len(window)
      continue
    media.clips.append(keep(np.stack(window[:length]), first))
    media.dropped_frames += len(window) - length
    if more and len(media.clips) == limits.max_clips:
      return _warn(media, "more")


def _warn(media: Media, code: str) -> None:
  if code not in media.warnings:
    media.warnings.append(code)
