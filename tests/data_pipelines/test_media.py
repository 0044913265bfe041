"""Files of all kinds, whole and broken: what becomes a clip, and why others do not."""

import fractions
import os
import wave

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines import limits, media, pixels
from sora_jax.generation import video_files

# Pictures here are flat, and jump: where shots end is tested in test_filters.py.
LIMITS = limits.Limits(split_shots=False)
MIRRORED = [-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]  # left and right change places


def _corners(height=48, width=96):
  """Red, green / blue, white quarters, which tell every orientation apart."""
  image = np.zeros((height, width, 3), np.uint8)
  image[: height // 2, : width // 2] = [255, 0, 0]
  image[: height // 2, width // 2 :] = [0, 255, 0]
  image[height // 2 :, : width // 2] = [0, 0, 255]
  image[height // 2 :, width // 2 :] = [255, 255, 255]
  return image


def _still(image, frames=30):
  return np.repeat(image[None], frames, axis=0)


def _counting(frames, height=32, width=32):
  """Frame i has the gray level i."""
  return np.broadcast_to(
    np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, height, width, 3)
  )


def _write(
  path, frames, *, fps=24, times_ms=None, codec="libx264", pix_fmt="yuv420p",
  rotation=None, matrix=None, aspect=None, transfer=None, disposition=None,
):  # fmt: skip
  with av.open(str(path), "w") as file:
    stream = file.add_stream(codec, rate=fps)
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
    stream.codec_context.time_base = fractions.Fraction(1, 1000)
    if rotation is not None:
      stream.set_display_rotation(rotation)
    if matrix is not None:
      stream.set_display_matrix(matrix)
    if aspect is not None:
      stream.codec_context.sample_aspect_ratio = aspect
    if transfer is not None:
      stream.codec_context.color_trc = transfer
    if disposition is not None:
      stream.disposition = disposition
    for i, array in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array))
      frame.time_base = fractions.Fraction(1, 1000)
      frame.pts = int(times_ms[i]) if times_ms is not None else round(1000 * i / fps)
      file.mux(stream.encode(frame))
    file.mux(stream.encode())
  return path


def _write_lossless(path, frames, **options):
  return _write(path, frames, codec="ffv1", pix_fmt="bgr0", **options)


def _reason(path, bounds=LIMITS):
  with pytest.raises(limits.MediaError) as caught:
    media.read(path, bounds)
  return caught.value.reason


# Sizes.


@pytest.mark.parametrize("max_pixels", [1024, 4096, 65536])
def test_grid_sizes_keep_proportions_within_a_cell(max_pixels):
  for height in range(32, 1400, 61):
    for width in range(height // 3 + 16, 3 * height, 67):
      h, w = limits.grid_size(height, width, max_pixels=max_pixels, min_side=8)
      assert h % 8 == w % 8 == 0 and h * w <= max_pixels
      assert h <= height and w <= width
      ideal = min(1, (max_pixels / (height * width)) ** 0.5)
      assert abs(h - height * ideal) < 8 and abs(w - width * ideal) < 8


def test_grid_size_of_sources_that_do_not_fit():
  for size, reason in (((15, 640), "too_small"), ((16, 1024), "too_thin")):
    with pytest.raises(limits.MediaError) as caught:
      limits.grid_size(*size, max_pixels=4096)
    assert caught.value.reason == reason
  assert limits.grid_size(16, 20, max_pixels=4096) == (16, 16)  # never enlarged


@pytest.mark.parametrize(
  "field", [{"max_frames": 16}, {"fps": 0}, {"max_pixels": 100}, {"min_frames": 0}]
)
def test_wrong_limits_are_named(field):
  with pytest.raises(ValueError, match=next(iter(field))):
    limits.Limits(**field)


def test_circles_stay_circles(tmp_path):
  y, x = np.mgrid[:180, :320]
  disc = ((y - 90) ** 2 + (x - 160) ** 2 < 70**2)[..., None] * np.uint8(255)
  path = _write_lossless(tmp_path / "a.mkv", _still(np.repeat(disc, 3, -1)))
  clip = media.read(path, LIMITS).clips[0]
  assert clip.shape[1:3] == (48, 80)
  disc = clip[0, :, :, 0] > 127
  assert abs(disc.any(0).sum() - disc.any(1).sum()) <= 1


# Orientation and shape of pixels.


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_is_applied(tmp_path, rotation):
  path = _write(tmp_path / "a.mp4", _still(_corners()), rotation=rotation)
  result = media.read(path, LIMITS)
  want = np.rot90(_corners(), k=rotation // 90)
  assert result.source_size == want.shape[:2]
  _assert_same_corners(result.clips[0][0], want)


def test_mirroring_is_applied(tmp_path):
  path = _write(tmp_path / "a.mp4", _still(_corners()), matrix=MIRRORED)
  _assert_same_corners(media.read(path, LIMITS).clips[0][0], _corners()[:, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
  # How an image is stored that is upright after the turn that its EXIF tag names.
  stored = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: lambda a: np.rot90(a, -1),
  }[orientation](_corners())  # fmt: skip
  exif = Image.Exif()
  exif[274] = orientation
  path = tmp_path / "a.jpg"
  Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
  _assert_same_corners(media.read(path, LIMITS).clips[0][0], _corners())


def _assert_same_corners(got, want):
  assert (got.shape[0] > got.shape[1]) == (want.shape[0] > want.shape[1])
  for y in (4, -5):
    for x in (4, -5):
      assert np.abs(got[y, x].astype(int) - want[y, x]).max() < 40, (y, x)


def test_pixels_that_are_not_square(tmp_path):
  path = _write(tmp_path / "a.mp4", _still(_corners(64, 64)), aspect=2)
  result = media.read(path, LIMITS)
  assert result.source_size == (64, 128)
  assert result.clips[0].shape[1:3] == (40, 88)  # of 45.3 x 90.5


# Time.


def test_frames_are_chosen_by_their_times_not_by_the_header(tmp_path):
  times = np.cumsum([0, 10, 300, 20, 20, 250, 125, 125, 125, 400, 33, 33, 250, 100])
  path = _write_lossless(
    tmp_path / "a.mkv", _counting(len(times)), times_ms=times, fps=60
  )
  result = media.read(path, limits.Limits(max_frames=65))
  shown = np.concatenate(result.clips)[:, 0, 0, 0]
  want = [int((times <= t + 2).sum()) - 1 for t in np.arange(0, times[-1] + 1, 125)]
  assert len(want) - 4 < len(shown) <= len(want)
  np.testing.assert_array_equal(shown, want[: len(shown)])
  assert result.seconds == pytest.approx(times[-1] / 1000)


def test_slow_videos_hold_their_frames(tmp_path):
  path = _write_lossless(tmp_path / "a.mkv", _counting(10), fps=2)
  result = media.read(path, LIMITS)
  np.testing.assert_array_equal(
    np.concatenate(result.clips)[:9, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1, 2]
  )
  assert "repeated_frames" in result.warnings


def test_clips_follow_one_another_and_have_1_plus_4k_frames(tmp_path):
  path = _write_lossless(tmp_path / "a.mkv", _counting(42), fps=8)
  result = media.read(path, LIMITS)
  assert [len(clip) for clip in result.clips] == [17, 17, 5]
  assert result.dropped_frames == 42 - 39
  np.testing.assert_array_equal(np.concatenate(result.clips)[:, 0, 0, 0], range(39))
  assert media.read(path, limits.Limits(min_frames=9)).dropped_frames == 8


def test_long_files_are_cut_off(tmp_path):
  path = _write_lossless(tmp_path / "a.mkv", _counting(100), fps=8)
  for bounds in (limits.Limits(max_clips=2), limits.Limits(max_seconds=4.0)):
    result = media.read(path, bounds)
    assert "more" in result.warnings and result.seconds < 5
    assert len(result.clips[0]) == 17
  assert len(media.read(path, limits.Limits(max_clips=2)).clips) == 2


# Kinds of images and colors.


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "LA", "RGBA", "I;16"])
def test_modes_of_images_become_rgb(tmp_path, mode):
  gray = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
  if mode == "I;16":
    image = Image.fromarray(gray.astype(np.uint16) * 257)
  else:
    image = Image.fromarray(gray).convert("RGB").convert(mode)
  path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
  image.save(path)
  clip = media.read(path, LIMITS).clips[0]
  assert clip.shape == (1, 64, 64, 3) and clip.dtype == np.uint8
  assert clip[0, :, :4].mean() < 20 and clip[0, :, -4:].mean() > 235
  if mode not in ("1", "P"):
    assert np.abs(clip[0].astype(int) - gray[..., None]).max() <= 3


def test_transparent_pixels_are_black(tmp_path):
  image = np.full((32, 32, 4), 255, np.uint8)
  image[:, :16, 3] = 0
  Image.fromarray(image).save(tmp_path / "a.png")
  clip = media.read(tmp_path / "a.png", LIMITS).clips[0]
  assert (clip[0, :, :16] == 0).all() and (clip[0, :, 16:] == 255).all()


def test_animated_images(tmp_path):
  first, *others = [Image.new("RGB", (32, 32), (20 * i, 0, 0)) for i in range(9)]
  for name in ("a.gif", "a.png", "a.webp"):
    first.save(tmp_path / name, save_all=True, append_images=others, duration=130)
  for name in ("a.gif", "a.png"):
    assert [len(c) for c in media.read(tmp_path / name, LIMITS).clips] == [9]
  webp = media.read(tmp_path / "a.webp", LIMITS)
  assert [len(c) for c in webp.clips] == [1] and webp.warnings == ["first_frame"]


def test_hdr_is_tone_mapped(tmp_path):
  levels = _still(np.full((32, 32, 3), 148, np.uint8))  # PQ of diffuse white
  result = media.read(_write(tmp_path / "a.mp4", levels, transfer=16), LIMITS)
  assert result.warnings == ["hdr"]
  assert 220 < result.clips[0].mean() < 250


@pytest.mark.parametrize("transfer", [16, 18])
def test_tone_curve_rises_from_black_to_white(transfer):
  signal = np.repeat(np.linspace(0, 1, 256)[None, :, None], 3, -1)
  levels = pixels._tone_map(signal, transfer)[0, :, 0].astype(int)
  assert levels[0] == 0 and levels[-1] >= 250 and (np.diff(levels) >= 0).all()


def test_content_counts_not_the_name(tmp_path):
  video_files.write_mp4(tmp_path / "a.mp4", _still(_corners()), 24)
  for name in ("b.txt", "c", "d.jpg", "e: 東京 %03d.mkv"):
    path = (tmp_path / "a.mp4").rename(tmp_path / name)
    assert media.read(path, LIMITS).clips
    path.rename(tmp_path / "a.mp4")


# Files with something wrong.


def test_reasons_of_files_that_are_no_media(tmp_path):
  for name in ("a.mp4", "a.txt", "a.jpg", "a.nfo"):
    (tmp_path / name).write_text("Call me Ishmael. " * 99)
    assert _reason(tmp_path / name) == "unreadable"
  (tmp_path / "empty.mp4").touch()
  assert _reason(tmp_path / "empty.mp4") == "empty"
  assert _reason(tmp_path) == "not_a_file"
  os.mkfifo(tmp_path / "pipe")
  assert _reason(tmp_path / "pipe") == "not_a_file"
  (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
  assert _reason(tmp_path / "noise.mp4") == "unreadable"


def test_playlists_cannot_name_other_files(tmp_path):
  video_files.write_mp4(tmp_path / "a.mp4", _still(_corners()), 24)
  entry = f"#EXTINF:5,\nfile://{tmp_path}/a.mp4\n#EXT-X-ENDLIST\n"
  (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n{entry}")
  (tmp_path / "a.ffconcat").write_text("ffconcat version 1.0\nfile a.mp4\n")
  assert _reason(tmp_path / "a.m3u8") == "unreadable"
  assert _reason(tmp_path / "a.ffconcat") == "unreadable"


def test_sound_without_video(tmp_path):
  with wave.open(str(tmp_path / "a.wav"), "wb") as file:
    file.setparams((1, 2, 8000, 0, "NONE", ""))
    file.writeframes(bytes(16000))
  assert _reason(tmp_path / "a.wav") == "no_video"
  cover = _still(_corners(), 1)
  path = _write(
    tmp_path / "a.mp4", cover, codec="mjpeg", pix_fmt="yuvj420p",
    disposition=av.stream.Disposition.attached_pic,
  )  # fmt: skip
  assert _reason(path) == "no_video"


def test_sizes_that_are_refused(tmp_path):
  path = _write(tmp_path / "a.mp4", _still(_corners()))
  Image.fromarray(_corners()).save(tmp_path / "a.png")
  for file in (path, tmp_path / "a.png"):
    assert _reason(file, limits.Limits(max_source_pixels=1000)) == "too_large"
  small = _write(tmp_path / "small.mp4", _still(_corners(8, 64)))
  thin = _write(tmp_path / "thin.mp4", _still(_corners(16, 1024), 8))
  assert (_reason(small), _reason(thin)) == ("too_small", "too_thin")


def test_length_and_time_that_are_refused(tmp_path):
  for frames in (1, 2):
    path = _write(tmp_path / "a.mp4", _still(_corners(), frames))
    assert _reason(path) == "too_short"
  path = _write(tmp_path / "a.mp4", _still(_corners()))
  assert _reason(path, limits.Limits(timeout=0.0)) == "timeout"


def test_unknown_codec(tmp_path):
  path = _write(tmp_path / "a.mp4", _still(_corners()))
  path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
  assert _reason(path) == "unsupported_codec"


def test_truncated_files(tmp_path):
  noise = np.random.default_rng(0).integers(0, 256, (48, 64, 64, 3), np.uint8)
  path = tmp_path / "a.mp4"
  video_files.write_mp4(path, noise, 24)  # with its index first
  content = path.read_bytes()
  path.write_bytes(content[: len(content) * 2 // 3])
  result = media.read(path, LIMITS)
  assert "damaged" in result.warnings
  assert [len(clip) for clip in result.clips] in ([9], [5])
  path.write_bytes(content[: len(content) // 5])
  assert _reason(path) == "damaged"
  _write(path, noise)  # with its index last
  path.write_bytes(path.read_bytes()[:-9000])
  assert _reason(path) == "unreadable"
  Image.fromarray(noise[0]).save(tmp_path / "a.jpg")
  content = (tmp_path / "a.jpg").read_bytes()
  (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
  assert _reason(tmp_path / "a.jpg") == "truncated"


def test_reading_ends_where_the_size_changes(tmp_path):
  small = _write(tmp_path / "a.h264", _still(_corners(48, 96)))
  large = _write(tmp_path / "b.h264", _still(_corners(96, 96)))
  small.write_bytes(small.read_bytes() + large.read_bytes())
  result = media.read(small, LIMITS)
  assert "size_changed" in result.warnings
  assert result.source_size == (48, 96) and sum(map(len, result.clips)) <= 10
