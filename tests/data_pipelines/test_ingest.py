"""A folder of videos and photos becomes a dataset; every file is accounted for."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines import captioned_files, filters, ingest_report, limits, media
from data_pipelines.jobs import ingest
from sora_jax.generation import video_files

REPOSITORY = pathlib.Path(__file__).parents[2]


def _add_video(path, frames=30, level=100, moving=False):
  path.parent.mkdir(parents=True, exist_ok=True)
  video = np.full((frames, 32, 48, 3), level, np.uint8)
  if moving:
    field = np.random.default_rng(0).integers(0, 256, (4, 20, 3)).astype(np.uint8)
    field = field.repeat(8, axis=0).repeat(8, axis=1)
    video = np.stack([field[:, 2 * t : 2 * t + 48] for t in range(frames)])
  video_files.write_mp4(path, video, 8)


def _add_image(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", (64, 32), (255, 0, 0)).save(path)


def _write_manifest(folder, *lines):
  text = "".join(
    (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
  )
  (folder / "manifest.jsonl").write_text(text)


def _entry(file, caption="a caption", **more):
  return {"file": file, "caption": caption, **more}


def _reasons(result):
  return {row["file"]: row["reason"] for row in result.rows}


# The little videos here are all still, and all alike.
OFF = filters.Thresholds(min_brightness=0.0, min_change=0.0, duplicate_bits=0)


def _ingest(folder, out, **changes):
  return ingest.ingest(
    folder, out, settings=ingest.Settings(**{"thresholds": OFF, **changes})
  )


def _records(result, split):
  builder = tfds.builder_from_directory(result.dataset)
  return list(builder.as_data_source(split))


@pytest.fixture
def folder(tmp_path):
  """Two videos, one below, and an image, with captions in both ways."""
  folder = tmp_path / "in"
  _add_video(folder / "a.mp4")
  _add_video(folder / "below" / "b.mp4", frames=5, level=200)
  _add_image(folder / "c.png")
  _write_manifest(folder, _entry("a.mp4", "gray", rating=5), _entry("c.png", "red"))
  (folder / "below" / "b.txt").write_text("white é\n")
  return folder


def test_dataset_has_all_clips_with_their_captions(folder, tmp_path):
  result = _ingest(folder, tmp_path / "out")
  assert not result.reused and not (tmp_path / "out.partial").exists()
  train, test = _records(result, "train"), _records(result, "test")
  records = {r["id"].decode(): r for r in train + test}
  assert sorted(records) == ["a.mp4#0", "a.mp4#1", "below/b.mp4#0", "c.png#0"]
  captions = {name: r["caption"].decode() for name, r in records.items()}
  assert captions["a.mp4#1"] == "gray" and captions["below/b.mp4#0"] == "white é"
  shapes = [records[name]["video"].shape for name in sorted(records)]
  assert shapes == [
    (17, 32, 48, 3), (13, 32, 48, 3), (5, 32, 48, 3), (1, 32, 64, 3)
  ]  # fmt: skip
  assert {float(r["fps"]) for r in records.values()} == {8.0}
  assert abs(int(records["a.mp4#0"]["video"].mean()) - 100) <= 2
  files = [{r["id"].split(b"#")[0] for r in split} for split in (train, test)]
  assert files[0] and files[1] and not files[0] & files[1]


def test_report_has_a_line_for_each_file(folder, tmp_path):
  result = _ingest(folder, tmp_path / "out")
  lines = (tmp_path / "out" / "ingest_report.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == result.rows
  assert [row["file"] for row in result.rows] == ["a.mp4", "below/b.mp4", "c.png"]
  first = result.rows[0]
  assert first["status"] == "kept" and first["reason"] == ""
  assert (first["clips"], first["frames"], first["dropped_frames"]) == (2, 30, 0)
  assert first["size"] == [32, 48] and first["source_size"] == [32, 48]
  assert first["fps"] == 8 and first["seconds"] == pytest.approx(29 / 8)
  assert "kept" in ingest_report.summary(result.rows)


def test_every_problem_is_counted(folder, tmp_path):
  _add_video(tmp_path / "outside.mp4")
  os.symlink(tmp_path / "outside.mp4", folder / "link.mp4")
  os.symlink(tmp_path, folder / "link")
  os.symlink(folder / "nowhere", folder / "dangling.mp4")
  for name in ("alone.mp4", "blank.mp4", "bad.mp4", "twice.mp4"):
    _add_video(folder / name)
  (folder / "blank.txt").write_text(" \n")
  (folder / "bad.txt").write_bytes(b"\xff\xfe\x00")
  (folder / "notes.txt").write_text("not beside anything")
  (folder / "broken.mp4").write_text("not a video")
  (folder / "a.mp4").rename(folder / "movie.txt")  # what it is, not how it is called
  _write_manifest(
    folder,
    _entry("movie.txt"), "{not json", "[1]", _entry(3), "", _entry("gone.mp4"),
    _entry("../outside.mp4"), _entry(str(tmp_path / "outside.mp4")), _entry("link.mp4"),
    _entry("link/outside.mp4"), _entry("c.png", None), _entry("broken.mp4"),
    _entry("twice.mp4", "first"), _entry("./twice.mp4", "last"), _entry("dangling.mp4"),
    _entry("nul\0.mp4"), _entry("\ud800.mp4"),
  )  # fmt: skip
  result = _ingest(folder, tmp_path / "out")
  assert _reasons(result) == {
    "movie.txt": "", "below/b.mp4": "", "twice.mp4": "",
    "manifest.jsonl:2": "bad_line", "manifest.jsonl:3": "bad_line",
    "manifest.jsonl:4": "bad_line",
    "gone.mp4": "missing_file", "dangling.mp4": "missing_file",
    "../outside.mp4": "outside_folder", str(tmp_path / "outside.mp4"): "outside_folder",
    "link.mp4": "outside_folder", "link": "outside_folder",
    "link/outside.mp4": "outside_folder", "nul\0.mp4": "outside_folder",
    "\ufffd\ufffd\ufffd.mp4": "outside_folder",
    "c.png": "no_caption", "alone.mp4": "no_caption", "blank.mp4": "no_caption",
    "notes.txt": "no_caption", "bad.mp4": "bad_caption",
    "broken.mp4": "unreadable",
  }  # fmt: skip
  twice = next(row for row in result.rows if row["file"] == "twice.mp4")
  assert twice["warnings"] == ["listed_twice"]
  records = _records(result, "train") + _records(result, "test")
  assert {r["caption"] for r in records if b"twice" in r["id"]} == {b"last"}


def test_file_names_that_are_not_text(tmp_path):
  folder = tmp_path / "in"
  _add_video(folder / "a.mp4")
  name = os.fsencode(folder) + b"/\xff.mp4"
  os.rename(folder / "a.mp4", name)
  pathlib.Path(os.fsdecode(name)).with_suffix(".txt").write_text("odd")
  (file,) = captioned_files.find(folder)
  assert file.caption == "odd" and file.name.encode("utf-8")
  assert _ingest(folder, tmp_path / "out").rows[0]["status"] == "kept"


def test_a_finished_dataset_is_reused_until_something_changes(folder, tmp_path):
  def run(**changes):
    return _ingest(folder, tmp_path / "out", limits=limits.Limits(**changes))

  first = run()
  again = run()
  assert again.reused and again.rows == first.rows and again.dataset == first.dataset
  assert not run(max_frames=9).reused
  (folder / "below" / "b.txt").write_text("another caption")
  assert not run(max_frames=9).reused
  assert run(max_frames=9).reused
  _add_video(folder / "d.mp4")
  assert len(run(max_frames=9).rows) == 4


def test_an_interrupted_run_is_done_again(folder, tmp_path, monkeypatch):
  def interrupt(path, limits, keep):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(media, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
      _ingest(folder, tmp_path / "out")
  assert not (tmp_path / "out").exists()
  assert not _ingest(folder, tmp_path / "out").reused


def test_each_file_is_read_once(folder, tmp_path, monkeypatch):
  read, paths = media.read, []
  monkeypatch.setattr(
    media, "read", lambda path, *rest: paths.append(path) or read(path, *rest)
  )
  _ingest(folder, tmp_path / "out")
  assert len(paths) == len(set(paths)) == 3


def test_one_file_is_in_both_splits(tmp_path, capsys):
  _add_video(tmp_path / "in" / "a.mp4", frames=5)
  (tmp_path / "in" / "a.txt").write_text("a")
  result = _ingest(tmp_path / "in", tmp_path / "out")
  assert "in train and in test" in capsys.readouterr().out
  assert len(_records(result, "train")) == len(_records(result, "test")) == 1


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_splits_follow_the_names_of_files(fraction):
  files = [
    captioned_files.CaptionedFile(path=pathlib.Path(), name=f"{i}.mp4")
    for i in range(200)
  ]
  some, more = (ingest._split(files, range(n), fraction) for n in (150, 200))
  for numbers in (some, more):
    assert numbers["train"] and numbers["test"]
  assert sorted(more["train"] + more["test"]) == list(range(200))
  if fraction == 0.3:
    assert 40 < len(more["test"]) < 80
    assert set(some["test"]) <= set(more["test"])


def test_user_errors_are_one_clear_line(folder, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "thesis.doc").touch()
  (tmp_path / "useless").mkdir()
  (tmp_path / "useless" / "a.mp4").touch()
  for videos, out, message in (
    (tmp_path / "gone", tmp_path / "out", "not a folder"),
    (tmp_path / "empty", tmp_path / "out", "is empty"),
    (tmp_path / "useless", tmp_path / "out", "nothing usable"),
    (folder, folder / "out", "must not hold"),
    (folder / "below", folder, "must not hold"),
    (folder, tmp_path / "other", "thesis.doc"),
    (folder, folder / "a.mp4" / "out", "must not hold"),
  ):
    with pytest.raises(ValueError, match=message):
      _ingest(videos, out)
  (folder / "manifest.jsonl").write_bytes(b"\xff\xfe")
  with pytest.raises(ValueError, match="UTF-8"):
    _ingest(folder, tmp_path / "out")
  with pytest.raises(ValueError, match="test_fraction"):
    ingest.Settings(test_fraction=1.0)


def test_command_prints_the_dataset_and_exits_with_2_on_errors(folder, tmp_path):
  def run(*flags):
    return subprocess.run(
      [sys.executable, "-m", "data_pipelines.jobs.ingest", *flags],
      cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip

  out = tmp_path / "out"
  good = run(
    f"--videos={folder}", f"--out={out}", "--max_frames=9", "--workers=1",
    "--min_change=0", "--duplicate_bits=0",
  )  # fmt: skip
  assert good.returncode == 0, good.stderr
  lines = good.stdout.splitlines()
  assert lines[0].split()[:2] == ["kept", "3"]
  assert lines[-1] == str(out / "folder_clips" / "1.0.0")
  for bad in (
    run(f"--videos={tmp_path / 'gone'}", f"--out={out}"),
    run(f"--videos={folder}", f"--out={out}", "--max_frames=8"),
  ):
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
    assert bad.stderr.startswith("error: ")


def test_manifests_of_other_kinds(folder, tmp_path):
  """CSV and Parquet, in the folder or given; two at once are one too many."""
  (folder / "manifest.jsonl").unlink()
  text = 'caption,file\n"gray, all of it",a.mp4\nred,c.png\n,gone.mp4\n'
  (folder / "manifest.csv").write_text(text)
  from_csv = captioned_files.find(folder)
  assert [f.name for f in from_csv] == ["a.mp4", "below/b.mp4", "c.png", "gone.mp4"]
  assert from_csv[0].caption == "gray, all of it"
  assert from_csv[3].problem == "missing_file"
  table = pyarrow.table({
    "file": ["a.mp4", "c.png", None], "caption": ["gray", "red", "x"], "score": [1, 2, 3]
  })  # fmt: skip
  pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
  given = captioned_files.find(folder, tmp_path / "list.parquet")
  problems = {f.name: f.problem for f in given}
  assert problems["a.mp4"] == "" and problems["list.parquet:3"] == "bad_line"
  (folder / "manifest.jsonl").write_text("")
  with pytest.raises(ValueError, match="name one of them with --manifest"):
    captioned_files.find(folder)
  for name, content in (("a.parquet", b"no"), ("a.csv", b"path,caption\n")):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
      captioned_files.find(folder, tmp_path / name)
  with pytest.raises(ValueError, match=r"is not a \.jsonl, \.csv, \.parquet file"):
    captioned_files.find(folder, tmp_path / "list.txt")


def test_every_clip_is_accounted_for(folder, tmp_path):
  """Still clips and repeated ones are dropped, with their reason, in all reports."""
  _add_video(folder / "d.mp4", frames=5, moving=True)
  _add_video(folder / "e.mp4", frames=6, moving=True)
  for name in ("d", "e"):
    (folder / f"{name}.txt").write_text(name)
  result = _ingest(folder, tmp_path / "out", thresholds=filters.Thresholds())
  assert _reasons(result) == {
    "a.mp4": "filtered", "below/b.mp4": "filtered", "c.png": "", "d.mp4": "",
    "e.mp4": "filtered",
  }  # fmt: skip
  table = pyarrow.parquet.read_table(tmp_path / "out" / "clips.parquet").to_pylist()
  assert {row["clip"]: row["reason"] for row in table} == {
    "a.mp4#0": "static", "a.mp4#1": "static", "below/b.mp4#0": "static", "c.png#0": "",
    "d.mp4#0": "", "e.mp4#0": "near_duplicate",
  }  # fmt: skip
  assert table[-1]["duplicate_of"] == "d.mp4#0" and not table[-1]["kept"]
  ids = [r["id"] for split in ("train", "test") for r in _records(result, split)]
  assert sorted(ids) == [b"c.png#0", b"d.mp4#0"]
  page = (tmp_path / "out" / "report.html").read_text()
  assert "dropped: near duplicate" in page and page.count("data:image/png") == 6


@pytest.mark.parametrize("after", range(4))
def test_a_killed_job_goes_on_and_ends_with_the_same_bytes(
  folder, tmp_path, monkeypatch, after
):
  """Killed after 0, 1, 2 files and while writing; nothing is read twice."""
  whole, out, filled = _ingest(folder, tmp_path / "whole"), tmp_path / "out", []
  fill = ingest.spool_lib.fill
  write = ingest.shards.ShardedDataset.write

  def fill_some(number, *rest):
    if len(filled) == after:
      raise KeyboardInterrupt
    filled.append(number)
    return fill(number, *rest)

  def fill_rest(number, *rest):
    filled.append(number)
    return fill(number, *rest)

  with monkeypatch.context() as patch:
    patch.setattr(ingest.spool_lib, "fill", fill_some)
    if after == 3:
      patch.setattr(ingest.shards.ShardedDataset, "write", _interrupted(write))
    with pytest.raises(KeyboardInterrupt):
      _ingest(folder, out)
  assert len(filled) == after and not out.exists()
  monkeypatch.setattr(ingest.spool_lib, "fill", fill_rest)
  assert _ingest(folder, out).rows == whole.rows
  assert sorted(filled) == [0, 1, 2]
  assert _bytes(out) == _bytes(tmp_path / "whole")


def _interrupted(write):
  def interrupted(self, shard, examples, **described):
    if shard.split == "test":
      raise KeyboardInterrupt
    write(self, shard, examples, **described)

  return interrupted


def _bytes(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*")) if path.is_file()
  }  # fmt: skip
