"""Videos and images that are written can be read; sheets show what they should."""

import av
import numpy as np
import pytest
from PIL import Image

from sora_jax.generation import video_files


def _video(frames=5, height=32, width=48, seed=0):
  """Smooth colors that move, so that lossy coding changes little."""
  t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
  channels = [(x + 2 * t) * 4, y * 6, 128 + 8 * t + 0 * x]
  return np.clip(np.stack(channels, -1) + seed, 0, 255).astype(np.uint8)


def _read(path):
  with av.open(str(path)) as file:
    rate = file.streams.video[0].average_rate
    return rate, np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])


def test_mp4_keeps_frames_rate_and_colors(tmp_path):
  video = _video()
  video_files.write_mp4(tmp_path / "a.mp4", video, 8.0)
  rate, again = _read(tmp_path / "a.mp4")
  assert rate == 8 and again.shape == video.shape
  assert np.abs(again.astype(int) - video).mean() < 4
  with av.open(str(tmp_path / "a.mp4")) as file:
    assert file.streams.video[0].codec_context.pix_fmt == "yuv420p"


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 31, 33), (2, 2, 2), (2, 1, 1)])
def test_mp4_of_odd_sizes_and_of_one_frame(tmp_path, shape):
  video_files.write_mp4(tmp_path / "a.mp4", _video(*shape), 29.97)
  _, again = _read(tmp_path / "a.mp4")
  frames, height, width = shape
  assert again.shape[:3] == (frames, height + height % 2, width + width % 2)


def test_upscaling_makes_squares(tmp_path):
  frame = _video(1, 4, 6)[0]
  video_files.write_png(tmp_path / "a.png", frame, upscale=3)
  again = np.asarray(Image.open(tmp_path / "a.png"))
  np.testing.assert_array_equal(again[1::3, 1::3], frame)
  np.testing.assert_array_equal(again[::3, 2::3], frame)
  video_files.write_mp4(tmp_path / "a.mp4", _video(2, 5, 7), 8, upscale=3)
  assert _read(tmp_path / "a.mp4")[1].shape[1:3] == (16, 22)


def test_one_frame_becomes_a_png_and_dots_in_names_stay(tmp_path):
  write = video_files.write_video_or_image
  assert write(tmp_path / "v1.0 cat", _video(1), 8.0) == tmp_path / "v1.0 cat.png"
  assert write(tmp_path / "v1.0 cat", _video(5), 8.0, 2) == tmp_path / "v1.0 cat.mp4"
  assert {p.name for p in tmp_path.iterdir()} == {"v1.0 cat.png", "v1.0 cat.mp4"}


def test_wrong_arguments_are_named_and_leave_no_file(tmp_path):
  good = _video(2)
  for frames in (good / 255, good[..., :1], good[0], good[:0]):
    with pytest.raises(ValueError, match="frames"):
      video_files.write_mp4(tmp_path / "a.mp4", frames, 8.0)
  with pytest.raises(ValueError, match="fps"):
    video_files.write_mp4(tmp_path / "a.mp4", good, 0.0)
  for upscale in (0, 1.5):
    with pytest.raises(ValueError, match="upscale"):
      video_files.write_mp4(tmp_path / "a.mp4", good, 8.0, upscale=upscale)
  assert not list(tmp_path.iterdir())


def test_contact_sheet_shows_first_and_last_frames():
  red, blue = (np.full((1, 32, 32, 3), c, np.uint8) for c in ([255, 0, 0], [0, 0, 255]))
  video = np.concatenate([red, np.zeros((7, 32, 32, 3), np.uint8), blue])
  sheet = video_files.contact_sheet([video], ["a"], frames_per_video=3, scale=1)
  assert sheet.dtype == np.uint8
  for color in ([255, 0, 0], [0, 0, 255], [0, 0, 0]):
    assert (sheet == color).all(-1).sum() == 32 * 32


def test_contact_sheet_of_many_sizes_is_laid_out_in_columns():
  videos = [_video(1 + i % 7, 16 + 8 * (i % 3), 24) for i in range(30)]
  labels = [f"{i} a label that is much too long for one line " * 4 for i in range(30)]
  sheet = video_files.contact_sheet(videos, labels)
  one = video_files.contact_sheet(videos[:1], labels[:1])
  assert sheet.shape[1] > 2 * one.shape[1]
  assert sheet.shape[0] < 30 * one.shape[0]
  video_files.contact_sheet(videos[:2], ["", "東京 🎬"])  # no such glyphs: no failure
  with pytest.raises(ValueError, match="label"):
    video_files.contact_sheet(videos, labels[:3])
