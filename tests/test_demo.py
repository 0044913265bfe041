"""A miniature of the whole demo, on its own world and on a folder of videos."""

import json
import os
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(module: str, *options: object, ok: bool = True) -> str:
  """What a command prints; asserts how it ends."""
  # One device, as a user has.
  environment = os.environ | {"XLA_FLAGS": os.environ["XLA_QUICKLY"]}
  done = subprocess.run(
    [sys.executable, "-m", module, *map(str, options)], cwd=ROOT, env=environment,
    capture_output=True, text=True, timeout=600, check=False,
  )  # fmt: skip
  output = done.stdout + done.stderr
  assert (done.returncode == 0) == ok, output[-4000:]
  if not ok:
    assert done.returncode == 2 and "Traceback" not in output, output[-4000:]
  return output


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("demo") / "run"
  options = (f"--workdir={workdir}", "--minutes=0.05", "--clips=96", "--samples=8")
  run("sora_jax.demo", *options)
  return workdir, options


def test_report(demo):
  workdir, _ = demo
  report = json.loads((workdir / "report.json").read_text())
  assert {"render", "autoencoder", "encode", "train", "sample", "check"} <= set(
    report["stages"]
  )
  assert report["autoencoder"]["psnr_db"] > 5
  assert report["autoencoder"]["checker_on_truth"]["all_accuracy"] == 1.0
  assert 0.8 < report["packing"]["efficiency"] <= 1
  assert report["train"]["steps"] == 12 and report["train"]["useful_tokens_per_s"] > 0
  samples = report["samples"]
  assert samples["count"] == 24 and len(samples["sizes"]) >= 6
  for group in (samples, samples["heldout"], samples["two_objects"]):
    assert group["n"] == 8
    for part in ("color", "shape", "motion", "all"):
      low, high = group[f"{part}_accuracy_ci95"]
      assert 0 <= low <= group[f"{part}_accuracy"] <= high <= 1
  page = (workdir / "report.html").read_text()
  assert page.count("data:video/mp4") >= 20 and "http://" not in page


def test_a_finished_demo_is_not_done_again(demo):
  _, options = demo
  output = run("sora_jax.demo", *options)
  assert output.count("done before") == 9 and "report:" in output


def test_it_goes_on_where_it_stopped(demo):
  workdir, options = demo
  path = workdir / "stages.json"
  rows = json.loads(path.read_text())
  rows["sample"]["done"] = False
  path.write_text(json.dumps(rows))
  output = run("sora_jax.demo", *options)
  assert output.count("done before") == 7  # up to, and without, sample and check


def test_other_options_need_another_workdir(demo):
  _, options = demo
  output = run("sora_jax.demo", *options, "--clips=128", ok=False)
  assert "begun with other options" in output and "--num_train=96" in output


def test_samples_of_any_size(demo, tmp_path):
  output = run(
    "sora_jax.sample", f"--workdir={demo[0] / 'text_to_video'}", f"--out={tmp_path}",
    "--prompt=a red circle moves left", "--prompt=" + "very " * 40 + "long",
    "--size=30x50", "--frames=6", "--steps=2", "--sampler=heun",
  )  # fmt: skip
  assert "6 frames of 30x50 are rounded to 5 frames of 32x48" in output
  assert "caption of 41 tokens is cut to 23" in output
  rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
  assert [row["width"] for row in rows] == [48, 48]
  with av.open(str(tmp_path / rows[0]["file"])) as file:
    frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
  assert len(frames) == 5 and frames[0].shape[1] / frames[0].shape[0] == 1.5
  assert (tmp_path / "contact_sheet.png").stat().st_size > 1000


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--config=configs/demo.py:dit", "--config.num_stepz=3"], "num_stepz"),
    (["--config=configs/demo.py:sit"], "takes one of"),
    (["--config=configs/none.py"], "configs/none.py"),
    (["--config=configs/demo.py:dit", "--config.data.path=nowhere"], "no dataset at"),
    (["--config=configs/demo.py:dit", "stray"], "unexpected argument 'stray'"),
  ],
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_user_errors_are_one_clear_line(tmp_path, options, message):
  output = run("sora_jax.train", f"--workdir={tmp_path / 'w'}", *options, ok=False)
  assert message in output


def test_another_config_in_the_workdir(demo):
  workdir, _ = demo
  output = run(
    "sora_jax.train", "--config=configs/demo.py:vae", "--config.seed=5",
    f"--config.data.path={workdir / 'clips' / 'moving_shapes' / '1.0.0'}",
    f"--workdir={workdir / 'autoencoder'}", ok=False,
  )  # fmt: skip
  assert "seed: 0 -> 5" in output and "num_steps: 6 -> 1200" in output


def write_video(path: pathlib.Path, height: int, width: int, frames: int) -> None:
  with av.open(str(path), "w") as file:
    stream = file.add_stream("libx264", rate=8)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    for t in range(frames):
      picture = np.full((height, width, 3), 40, np.uint8)
      picture[: height // 2, 4 * t : 4 * t + width // 3] = (200, 60, 60)
      file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    file.mux(stream.encode())


def test_on_a_folder_of_videos(tmp_path):
  folder = tmp_path / "videos"
  folder.mkdir()
  for i, (height, width) in enumerate([(96, 64), (64, 112), (80, 80)]):
    write_video(folder / f"clip{i}.mp4", height, width, 20)
    (folder / f"clip{i}.txt").write_text(f"A red block slides by, take {i}.")
  (folder / "broken.mp4").write_bytes(b"not a video")
  (folder / "broken.txt").write_text("Nothing to see.")
  workdir = tmp_path / "run"
  output = run(
    "sora_jax.demo", f"--videos={folder}", f"--workdir={workdir}", "--minutes=0.02"
  )
  assert "skipped: unreadable" in output
  report = json.loads((workdir / "report.json").read_text())
  assert report["samples"]["count"] == 2 and "color_accuracy" not in report["samples"]
  assert "A red block slides by" in (workdir / "report.html").read_text()
  rows = [json.loads(x) for x in (workdir / "clips" / "ingest_report.jsonl").open()]
  assert sorted(row["status"] for row in rows) == ["kept"] * 3 + ["skipped"]
