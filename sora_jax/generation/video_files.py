"""Videos and images as files: mp4, png, and contact sheets that show many at once.

Shapes: T frames, H height, W width; all pixels are uint8 RGB.
Used by: sample.py, evaluate.py, serving/, evals/.
"""

import contextlib
import fractions
import math
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image, ImageDraw, ImageFont

_QUALITY = "14"  # x264 constant rate factor: visually lossless
_BACKGROUND, _INK = (24, 24, 24), (235, 235, 235)
_FONT_SIZE, _LABEL_LINES, _GAP = 13, 2, 6  # pixels, lines, pixels
_TILE_SIDE = 112  # pixels that the longest side in a contact sheet is scaled up towards
_MIN_CELL_WIDTH = 240  # pixels, so that a label can be read above a single image
_ROWS_PER_COLUMN = 12


def write_video_or_image(
  path_stem: str | os.PathLike, frames: np.ndarray, fps: float, upscale: int = 1
) -> pathlib.Path:
  """Writes `frames` as STEM.png where there is one frame, else as STEM.mp4.

  Returns the path of the file. Arguments as of `write_mp4`.
  """
  _check_frames(frames)
  stem = pathlib.Path(path_stem)  # may hold dots, which are not a suffix
  if len(frames) == 1:
    path = stem.with_name(stem.name + ".png")
    write_png(path, frames[0], upscale=upscale)
  else:
    path = stem.with_name(stem.name + ".mp4")
    write_mp4(path, frames, fps, upscale=upscale)
  return path


def write_mp4(
  path: str | os.PathLike, frames: np.ndarray, fps: float, *, upscale: int = 1
) -> None:
  """Writes an H.264 video that browsers and players open.

  Args:
    path: of the file; it appears only when it is complete.
    frames: uint8 [T, H, W, 3], T >= 1. Odd sides gain a repeated row or column, since
      4:2:0 chroma needs even ones.
    fps: frames per second.
    upscale: whole number of pixels per pixel and side, so that tiny videos can be seen.

  Raises:
    ValueError: frames, fps or upscale are none of the above.
  """
  _check_frames(frames)
  if not fps > 0:
    raise ValueError(f"fps must be above 0, not {fps}")
  height, width = (side * upscale + side * upscale % 2 for side in frames.shape[1:3])
  with (
    _renamed_when_done(path) as partial,
    av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as file,
  ):
    rate = fractions.Fraction(fps).limit_denominator(1001)
    stream = file.add_stream("libx264", rate=rate, options={"crf": _QUALITY})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    # Untagged colors would be guessed, and small videos wrongly.
    stream.codec_context.colorspace = Colorspace.ITU709
    stream.codec_context.color_primaries = ColorPrimaries.BT709
    stream.codec_context.color_trc = ColorTrc.BT709
    stream.codec_context.color_range = ColorRange.MPEG
    for frame in frames:
      frame = _upscaled(frame, upscale)
      missing = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
      picture = av.VideoFrame.from_ndarray(np.pad(frame, missing, mode="edge"))
      picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
      file.mux(stream.encode(picture))
    file.mux(stream.encode())


def write_png(path: str | os.PathLike, frame: np.ndarray, *, upscale: int = 1) -> None:
  """Writes one image, uint8 [H, W, 3]; `path` and `upscale` as of `write_mp4`."""
  _check_frames(frame[None])
  with _renamed_when_done(path) as partial:
    Image.fromarray(_upscaled(frame, upscale)).save(partial, format="png")


def read_frames(path: str | os.PathLike) -> Mapping[str, np.ndarray]:
  """The frames of several videos, by name, as `sora_jax.sample --lossless` writes them.

  Raises:
    ValueError: it is no such file.
  """
  try:
    found = np.load(path, allow_pickle=False)
  except (ValueError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path} is not a file of frames: {error}") from error
  if isinstance(found, np.ndarray):
    raise ValueError(f"{path} is not a file of frames, but of one array")
  return found


def contact_sheet(
  videos: Sequence[np.ndarray],
  labels: Sequence[str],
  *,
  frames_per_video: int = 6,
  scale: int | None = None,
) -> np.ndarray:
  """An image of many videos: each a row of evenly spaced frames below its label.

  Args:
    videos: uint8 [T, H, W, 3] each, of any sizes.
    labels: one a video; what does not fit above its row is cut off.
    frames_per_video: at most; shorter videos show all of their frames.
    scale: whole number of pixels per pixel, the same for all; None chooses one.

  Returns:
    uint8 [H, W, 3]. Many rows are laid out in columns.

  Raises:
    ValueError: no videos, or not a label for each.
  """
  if not videos or len(videos) != len(labels):
    raise ValueError(
      f"a contact sheet needs videos and a label for each,"
      f" not {len(videos)} videos and {len(labels)} labels"
    )
  if scale is None:
    longest = max(max(video.shape[1:3]) for video in videos)
    scale = max(1, _TILE_SIDE // longest)
  strips = [_strip(video, frames_per_video, scale) for video in videos]
  width = max(_MIN_CELL_WIDTH, *(strip.width for strip in strips)) + 2 * _GAP
  cells = [_labeled(strip, label, width) for strip, label in zip(strips, labels)]
  columns = math.ceil(len(cells) / _ROWS_PER_COLUMN)
  rows = math.ceil(len(cells) / columns)  # as even as it gets
  groups = [cells[i : i + rows] for i in range(0, len(cells), rows)]
  height = max(sum(cell.height for cell in group) for group in groups)
  sheet = Image.new("RGB", (width * len(groups), height), _BACKGROUND)
  for column, group in enumerate(groups):
    top = 0
    for cell in group:
      sheet.paste(cell, (column * width, top))
      top += cell.height
  return np.asarray(sheet)


def _strip(video: np.ndarray, count: int, scale: int) -> Image.Image:
  """Evenly spaced frames side by side, the first and the last among them."""
  _check_frames(video)
  index = np.linspace(0, len(video) - 1, min(count, len(video))).round().astype(int)
  _, height, width, _ = (side * scale for side in video.shape)
  strip = Image.new("RGB", (len(index) * (width + _GAP) - _GAP, height), _BACKGROUND)
  for column, frame in enumerate(video[index]):
    tile = Image.fromarray(_upscaled(frame, scale))
    strip.paste(tile, (column * (width + _GAP), 0))
  return strip


def _labeled(strip: Image.Image, label: str, width: int) -> Image.Image:
  font = ImageFont.load_default(_FONT_SIZE)
  lines = _wrap(label, width - 2 * _GAP, font)
  line_height = _FONT_SIZE + 3
  top = _GAP + line_height * len(lines)
  cell = Image.new("RGB", (width, top + strip.height + _GAP), _BACKGROUND)
  draw = ImageDraw.Draw(cell)
  for number, line in enumerate(lines):
    draw.text((_GAP, _GAP // 2 + number * line_height), line, fill=_INK, font=font)
  cell.paste(strip, (_GAP, top))
  return cell


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
  """At most `_LABEL_LINES` lines of `text` that are `width` pixels wide."""
  lines = [""]
  for word in text.split():
    longer = f"{lines[-1]} {word}".strip()
    if not lines[-1] or font.getlength(longer) <= width:
      lines[-1] = longer
    else:
      lines.append(word)
  if len(lines) > _LABEL_LINES:
    lines = [*lines[: _LABEL_LINES - 1], " ".join(lines[_LABEL_LINES - 1 :])]
  return [_fit(line, width, font) for line in lines]


def _fit(line: str, width: int, font: ImageFont.FreeTypeFont) -> str:
  if font.getlength(line) <= width:
    return line
  while line and font.getlength(line + "...") > width:
    line = line[:-1]
  return line + "..."


def _upscaled(frame: np.ndarray, scale: int) -> np.ndarray:
  """[H, W, 3] -> [scale H, scale W, 3], every pixel a square."""
  if scale != int(scale) or scale < 1:
    raise ValueError(f"upscale must be a whole number of at least 1, not {scale}")
  return np.repeat(np.repeat(frame, scale, axis=0), scale, axis=1)


def _check_frames(frames: np.ndarray) -> None:
  if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
    raise ValueError(
      f"frames must be uint8 [T, H, W, 3], not {frames.dtype} {list(frames.shape)}"
    )
  if 0 in frames.shape:
    raise ValueError(f"frames are empty: {list(frames.shape)}")


@contextlib.contextmanager
def _renamed_when_done(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A name beside `path` to write to, renamed to it if nothing goes wrong."""
  path = pathlib.Path(path)
  partial = path.with_name(f"{path.name}.partial")
  try:
    yield partial
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
