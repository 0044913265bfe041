"""Clips to latents: the same bytes on any number of devices and processes."""

import json
import os
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import rows
from data_pipelines.jobs import encode_latents, render_shapes
from data_pipelines.moving_shapes import MovingShapes
from launch import local
from sora_jax.generation import codec as codec_lib
from tests.data_pipelines import damage
from tests.survival import kill_jobs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """(clips, codec, latents of eight devices in this process)."""
  folder = tmp_path_factory.mktemp("encode")
  world = MovingShapes(sizes=((32, 32), (24, 40)), frames=(5,))
  clips = render_shapes.render(
    folder / "clips", world, num_train=12, num_test=3, num_heldout=2
  )
  kill_jobs.write_codec(folder / "codec")
  path = encode_latents.encode(
    clips, folder / "codec", folder / "whole", clips_per_shard=2
  )
  return clips, folder / "codec", path


def start(inputs, out, **environment) -> subprocess.Popen:
  clips, codec, _ = inputs
  clean = os.environ | {"XLA_FLAGS": os.environ["XLA_QUICKLY"]}
  return subprocess.Popen(
    [sys.executable, "-m", "data_pipelines.jobs.encode_latents", f"--clips={clips}",
     f"--codec={codec}", f"--out={out}", "--clips_per_shard=2"],
    cwd=kill_jobs.ROOT, env=clean | environment, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  )  # fmt: skip


def test_two_processes_give_the_bytes_of_one(inputs, tmp_path):
  port = local.free_port()
  processes = [
    start(inputs, tmp_path / "out", JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
          JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i))
    for i in range(2)
  ]  # fmt: skip
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], outputs
  whole = inputs[2].parent.parent
  assert kill_jobs.contents(tmp_path / "out") == kill_jobs.contents(whole)


def test_it_holds_what_the_clips_held(inputs):
  clips, codec_folder, path = inputs
  codec = codec_lib.Codec(codec_folder)
  for split, count in (("train", 12), ("test", 3), ("heldout", 2)):
    source = tfds.builder_from_directory(str(clips)).as_data_source(split)
    found = tfds.builder_from_directory(str(path)).as_data_source(split)
    assert len(found) == count
    for i in range(count):
      clip, record = source[i], found[i]
      assert record["index"] == i and record["id"] == clip["id"]
      assert record["caption"] == clip["caption"] and record["fps"] == clip["fps"]
      assert tuple(record["video_size"]) == clip["video"].shape[:3]
      alone = codec.encode([clip["video"]])[0]
      np.testing.assert_allclose(record["latents"], alone, atol=1e-4)


def test_statistics_are_those_of_all_latents(inputs):
  *_, path = inputs
  values = np.concatenate([
    record["latents"].reshape(-1, 8)
    for split in ("train", "test", "heldout")
    for record in tfds.builder_from_directory(str(path)).as_data_source(split)
  ])  # fmt: skip
  stored = json.loads((path.parent.parent / "latents.json").read_text())
  assert stored["latents"] == len(values)
  np.testing.assert_allclose(stored["mean"], values.mean(0), atol=1e-5)
  np.testing.assert_allclose(stored["std"], values.std(0), rtol=1e-4)


def test_samples_are_drawn_by_the_clip_s_name(inputs, tmp_path):
  clips, codec, path = inputs

  sampled = encode_latents.encode(
    clips, codec, tmp_path / "a", sample=True, clips_per_shard=12
  )
  videos, means, samples = (
    tfds.builder_from_directory(str(folder)).as_data_source("train")
    for folder in (clips, path, sampled)
  )
  alone = codec_lib.Codec(codec)
  for i in range(3):
    seed = zlib.crc32(videos[i]["id"])
    expected = alone.encode([videos[i]["video"]], seeds=[seed])[0]
    np.testing.assert_allclose(samples[i]["latents"], expected, atol=1e-4)
    assert np.abs(samples[i]["latents"] - means[i]["latents"]).max() > 1e-2


def test_clips_that_cannot_be_used_are_listed(inputs, tmp_path):
  clips, codec, _ = inputs
  copy = shutil.copytree(clips, tmp_path / "copy")
  # Behind 2 held-out clips and 3 of the test.
  damage.edit(copy, {6: damage.put("caption", b"\xff"), 8: b"junk"})
  with pytest.raises(ValueError, match=r"^--clips: 2 clips of .* cannot be") as error:
    encode_latents.encode(copy, codec, tmp_path / "out", clips_per_shard=12)
  lines = str(error.value).splitlines()[1:]
  name = rows.open_source(str(clips), "train")[1]["id"].decode()
  assert lines[0].startswith(f"  {name}: bad_caption, the caption is not UTF-8")
  assert lines[1].startswith("  3: unreadable, ") and len(lines) == 2
  assert not (tmp_path / "out").exists()


def test_user_errors_are_named(inputs, tmp_path):
  clips, codec, _ = inputs
  with pytest.raises(ValueError, match=r"^--clips: no dataset at"):
    encode_latents.encode(tmp_path, codec, tmp_path / "out")
  with pytest.raises(ValueError, match="no codec at"):
    encode_latents.encode(clips, tmp_path, tmp_path / "out")
