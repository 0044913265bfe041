"""Decoded frames and images of any kind -> upright 8-bit RGB.

Shapes: H height, W width, as stored or as displayed; pixels are uint8 RGB.
Used by: media.py.
"""

import math

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Colorspace, ColorTrc, Interpolation
from PIL import Image

# The corner of a display matrix: a stored pixel (x, y) is displayed at
# (a x + c y, b x + d y), y downwards.
Matrix = tuple[float, float, float, float]  # a, b, c, d

_AVERAGED = (
  Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
)
_HD_HEIGHT = 720  # from which untagged videos are by convention BT.709, else BT.601
_UNSPECIFIED = 2  # of AVColorSpace

# High dynamic range. Luminance is in units of diffuse white, the white of a page.
_WHITE_NITS, _HLG_PEAK_NITS = 203.0, 1000.0  # ITU-R BT.2408
_KNEE = 0.6  # luminance from which highlights are compressed
_BT2020_TO_BT709 = np.array(
  [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)


def image_to_rgb(image: Image.Image) -> Image.Image:
  """8-bit RGB of an image of any mode; what is transparent becomes black.

  Raises:
    ValueError: pixels are floating-point numbers, whose range no one knows.
  """
  if image.mode.startswith("I"):  # 16 bits, which `convert` would clip
    levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    image = Image.fromarray((levels // 257).astype(np.uint8))
  if image.mode == "F":
    raise ValueError("floating-point pixels have no known range")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
  return image.convert("RGB")


def frame_to_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
  """uint8 [H, W, 3] of `size`, as stored: not turned upright yet."""
  height, width = size
  options = {"width": width, "height": height, "interpolation": _AVERAGED}
  if frame.colorspace == _UNSPECIFIED and frame.height >= _HD_HEIGHT:
    options["src_colorspace"] = Colorspace.ITU709
  if not is_hdr(frame):
    return frame.reformat(format="rgb24", **options).to_ndarray()
  signal = frame.reformat(format="rgb48le", **options).to_ndarray() / 65535.0
  return _tone_map(signal, ColorTrc(frame.color_trc))


def is_hdr(frame: av.VideoFrame) -> bool:
  """Whether the frame is of high dynamic range: its transfer is PQ or HLG."""
  return frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def display_matrix(frame: av.VideoFrame) -> Matrix:
  """How the frame is to be turned and mirrored for display."""
  try:
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
  except ValueError:  # PyAV does not know some newer kind of side data
    angle = -math.radians(frame.rotation)
    return math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)
  if data is None:
    return 1.0, 0.0, 0.0, 1.0
  a, b, _, c, d, *_ = np.frombuffer(data, np.int32) / 65536
  return float(a), float(b), float(c), float(d)


def is_turned(matrix: Matrix) -> bool:
  """Whether height and width change places."""
  a, b, _, _ = matrix
  return abs(b) > abs(a)


def upright(rgb: np.ndarray, matrix: Matrix) -> np.ndarray:
  """[H, W, 3] as stored -> [H, W, 3] as displayed, by quarter turns and mirrors."""
  a, b, c, d = matrix
  if is_turned(matrix):
    rgb, x_sign, y_sign = rgb.swapaxes(0, 1), c, b
  else:
    x_sign, y_sign = a, d
  return rgb[:: -1 if y_sign < 0 else 1, :: -1 if x_sign < 0 else 1]


def center_crop(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """[h, w, 3] -> [H, W, 3] of `size`, a copy."""
  top, left = ((have - want) // 2 for have, want in zip(rgb.shape, size))
  assert top >= 0 and left >= 0, (rgb.shape, size)
  return np.ascontiguousarray(rgb[top : top + size[0], left : left + size[1]])


def _tone_map(signal: np.ndarray, transfer: ColorTrc) -> np.ndarray:
  """HDR in BT.2020, [H, W, 3] in 0..1, as what an ordinary screen shows, uint8.

  Diffuse white is mapped to the screen's white. Below the knee light is kept; above, it
  approaches white exponentially, without a kink. All three colors are scaled alike, so
  that hues stay.
  """
  if transfer == ColorTrc.SMPTE2084:
    light = _pq_to_nits(signal) / _WHITE_NITS
  else:
    light = _hlg_to_nits(signal) / _WHITE_NITS
  light = np.maximum(light @ _BT2020_TO_BT709.T, 0)
  peak = np.maximum(light.max(-1, keepdims=True), 1e-6)
  room = 1 - _KNEE
  excess = np.maximum(peak - _KNEE, 0)
  light *= (np.minimum(peak, _KNEE) + room * (1 - np.exp(-excess / room))) / peak
  srgb = np.where(
    light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
  )
  return (srgb * 255).round().astype(np.uint8)


def _pq_to_nits(signal: np.ndarray) -> np.ndarray:
  """SMPTE ST 2084."""
  root = signal ** (1 / 78.84375)
  ratio = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
  return 10_000 * ratio ** (1 / 0.1593017578125)


def _hlg_to_nits(signal: np.ndarray) -> np.ndarray:
  """ITU-R BT.2100, on its reference screen."""
  a, b, c = 0.17883277, 0.28466892, 0.55991073
  scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
  luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
  return _HLG_PEAK_NITS * scene * luminance[..., None] ** 0.2
