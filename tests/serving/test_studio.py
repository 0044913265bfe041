"""What the web page makes, and what becomes of a request."""

import re

import av
import pytest

from sora_jax.serving import studio


def test_a_request_becomes_a_video(site, tmp_path):
  status, answer, _ = site.make(prompt="gray", size="16x24", frames=9, seed=3, steps=7)
  assert status == 202
  assert site.jobs()[0]["state"] == "waiting" and site.jobs()[0]["ahead"] == 0
  site.studio.run_one()
  (job,) = site.jobs()
  assert job["id"] == answer["id"] and job["state"] == "done" and not job["error"]
  assert (job["frames"], job["height"], job["width"], job["seed"]) == (9, 16, 24, 3)
  status, headers, content = site.ask("GET", f"/results/{job['file']}")
  assert status == 200 and headers["Content-Type"] == "video/mp4"
  (tmp_path / "a.mp4").write_bytes(content)
  with av.open(str(tmp_path / "a.mp4")) as file:
    frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
  assert len(frames) == 9 and abs(int(frames[0].mean()) - 10) <= 2
  status, headers, part = site.ask("GET", f"/results/{job['file']}", Range="bytes=5-9")
  assert status == 206 and part == content[5:10]
  assert headers["Content-Range"] == f"bytes 5-9/{len(content)}"
  status, headers, nothing = site.ask("HEAD", f"/results/{job['file']}")
  assert status == 200 and not nothing and int(headers["Content-Length"]) == len(content)


def test_pictures_defaults_and_sizes_off_the_grid(site):
  site.make(prompt="one", frames=1, size="17x30")
  site.make(prompt="two")
  first, second = site.studio.run_one(), site.studio.run_one()
  assert first.file.endswith(".png") and (first.height, first.width) == (16, 32)
  assert (second.frames, second.height, second.steps, second.guidance) == (9, 32, 20, 3.0)
  assert [job["prompt"] for job in site.jobs()] == ["two", "one"], "the newest first"


def test_results_stay_until_there_are_newer_ones(start, tmp_path):
  limits = studio.Limits(kept=2)
  site = start(limits=limits)
  for seed in range(3):
    site.make(prompt="gray", frames=1, seed=seed)
    site.studio.run_one()
  assert [job["seed"] for job in site.jobs()] == [2, 1]
  assert len(list((tmp_path / "out").iterdir())) == 4, "a picture and its settings each"
  (tmp_path / "out" / "0.json").write_text('{"id": "0", "file": "../0.png"}')
  (tmp_path / "out" / "1.json").write_text("no")
  assert start(limits=limits).jobs() == site.jobs()


def test_a_failure_costs_itself_only(site, capsys):
  for how in "vmk":
    site.make(prompt=f"fail {how}")
    site.studio.run_one()
  site.make(prompt="fine", frames=1)
  site.studio.run_one()
  told = {job["prompt"]: job["error"] for job in site.jobs()}
  assert told == {
    "fine": "", "fail v": "why", "fail k": r"the generator failed (KeyError: 'why\nso')",
    "fail m": "there is not enough memory for this: make it smaller or shorter",
  }  # fmt: skip
  assert "Traceback" not in capsys.readouterr().err


def test_a_full_disk_costs_one_request(site, tmp_path, monkeypatch, capsys):
  def full(path, job):
    path.with_suffix(".partial").write_text("half")
    raise OSError(28, "No space left on device", str(path))

  with monkeypatch.context() as patch:
    patch.setattr(studio, "_write", full)
    site.make(prompt="a", frames=1)
    assert site.studio.run_one().state == "failed"
  (job,) = site.jobs()
  assert job["error"] == "the server cannot read or write a file: No space left on device"
  assert job["state"] == "failed" and not list((tmp_path / "out").iterdir())
  site.make(prompt="a", frames=1)
  assert site.studio.run_one().state == "done"
  assert str(tmp_path) not in capsys.readouterr().err


def test_failures_cost_no_results(start, monkeypatch):
  monkeypatch.setattr(studio, "_FAILURES", 2)
  site = start(limits=studio.Limits(kept=1))
  for prompt in ("fine", "fail v", "fail v", "fail k"):
    site.make(prompt=prompt, frames=1)
    site.studio.run_one()
  jobs = site.jobs()
  assert [job["prompt"] for job in jobs] == ["fail k", "fail v", "fine"]
  assert site.ask("GET", f"/results/{jobs[-1]['file']}")[0] == 200


def test_programs_are_given_back(site, monkeypatch):
  cleared = []
  monkeypatch.setattr(studio, "_PROGRAMS", 2)
  monkeypatch.setattr(studio.jax, "clear_caches", lambda: cleared.append(1))
  for guidance in (1, 1, 2, 2.04, 3):
    site.make(prompt="a", frames=1, guidance=guidance)
    site.studio.run_one()
  assert len(cleared) == 1


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ({}, "no .prompt"), ({"prompt": ""}, "1 to 2,000"), ({"prompt": 5}, "must be text"),
    ({"prompt": "x" * 2001}, "1 to 2,000"), ({"prompt": "\ud800"}, "not valid Unicode"),
    ({"prompt": "a", "size": "big"}, "HEIGHTxWIDTH"),
    ({"prompt": "a", "size": 5}, "HEIGHTxWIDTH"),
    ({"prompt": "a", "size": "0x8"}, "must be positive"),
    ({"prompt": "a", "frames": 0}, "must be positive"),
    ({"prompt": "a", "frames": 2.5}, "frames must be a whole number"),
    ({"prompt": "a", "frames": 10**12}, "below 2"), ({"prompt": "a", "seed": -1}, "seed"),
    ({"prompt": "a", "seed": True}, "seed must be a whole number"),
    ({"prompt": "a", "size": "1024x1024", "frames": 81}, "this page takes 32,768"),
    ({"prompt": "a", "size": "999999999x999999999"}, "more than .* tokens"),
    ({"prompt": "a", "steps": 101}, "from 1 to 100"),
    ({"prompt": "a", "steps": "9"}, "steps must be a whole number"),
    ({"prompt": "a", "guidance": float("nan")}, "guidance must be a number from 0 to 20"),
    ({"prompt": "a", "guidance": 21}, "guidance"),
    ({"prompt": "a", "image": "x"}, "there is no field 'image'"),
  ],
)  # fmt: skip
def test_bad_requests_are_told(site, body, message):
  status, answer, _ = site.make(**body)
  assert status == 400 and re.search(message, answer["error"]), answer
  assert "\n" not in answer["error"] and not site.jobs()


def test_a_full_line_is_told(start):
  site = start(limits=studio.Limits(waiting=2))
  for _ in range(2):
    assert site.make(prompt="a")[0] == 202
  status, answer, headers = site.make(prompt="a")
  assert status == 503 and "2 requests wait" in answer["error"] and headers["Retry-After"]
  site.studio.run_one()
  assert site.make(prompt="a")[0] == 202
