"""What names a file, in a file of somebody else, cannot lead out of its folder."""

import json
import os
import pathlib
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds

from data_pipelines import captioned_files, datasets, rows
from sora_jax import configlib
from sora_jax.generation import prompts, video_files
from sora_jax.weights import folders

OUTSIDE = (
  "../secret.txt", "a/../../secret.txt", "/etc/passwd", "link.txt", "link/secret.txt",
  ".", "..", "", "\0", "a\0.mp4", "../in.txt", "//etc//passwd", "loop/a",
)  # fmt: skip
MISSING = (
  "x" * 300, "x/" * 3000 + "a", "~/secret.txt", "C:\\secret.txt", "$HOME/a", "%2e%2e/a"
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
  """IN with a file of its own, links that lead out, and secrets around it."""
  folder = tmp_path / "in"
  folder.mkdir()
  for name in ("secret.txt", "in.txt"):
    (tmp_path / name).write_text("a secret")
  (folder / "own.mp4").write_bytes(b"own")
  os.symlink(tmp_path / "secret.txt", folder / "link.txt")
  os.symlink(tmp_path, folder / "link")
  os.symlink(folder / "loop", folder / "loop")
  return folder


def write(kind, folder, names):
  path = folder / f"manifest.{kind}"
  if kind == "parquet":
    rows = {"file": list(names), "caption": [None] * len(names)}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
  elif kind == "csv":
    path.write_text("file,caption\n" + "".join(f'"{name}",\n' for name in names))
  else:
    path.write_text("".join(json.dumps({"file": name}) + "\n" for name in names))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_manifests(folder, kind):
  write(kind, folder, (*OUTSIDE, *MISSING, "own.mp4"))
  found = captioned_files.find(folder)
  for file in found:
    expected = {"own.mp4": "no_caption"}
    expected |= dict.fromkeys(map(os.path.normpath, OUTSIDE), "outside_folder")
    expected |= dict.fromkeys(map(os.path.normpath, MISSING), "missing_file")
    expected |= {"link": "outside_folder", "loop": "outside_folder"}  # found by walking
    assert file.problem == expected[file.name] and not file.caption, file
  assert "a secret" not in str(found)


def test_captions_beside_files(folder, tmp_path):
  """A link that is a caption would bring in what it leads to."""
  for name, target in (("own", tmp_path / "secret.txt"), ("big", folder / "big.txt")):
    (folder / f"{name}.mp4").write_bytes(b"own")
    if target.name == "big.txt":
      target.write_bytes(b"x" * 500_000)
    else:
      os.symlink(target, folder / f"{name}.txt")
  found = {file.name: file for file in captioned_files.find(folder)}
  for name in ("own.mp4", "big.mp4"):
    assert found[name].problem == "bad_caption" and not found[name].caption


def test_a_manifest_that_leads_out(folder, tmp_path):
  (tmp_path / "elsewhere.jsonl").write_text('{"file": "own.mp4", "caption": "fine"}')
  os.symlink(tmp_path / "elsewhere.jsonl", folder / "manifest.jsonl")
  with pytest.raises(ValueError, match="is a link out of its folder"):
    captioned_files.find(folder)
  given = captioned_files.find(folder, tmp_path / "elsewhere.jsonl")
  assert "fine" in {file.caption for file in given}
  os.remove(folder / "manifest.jsonl")
  os.mkfifo(folder / "manifest.jsonl")  # would be read for ever
  assert "manifest.jsonl" in {file.name for file in captioned_files.find(folder)}


@pytest.mark.parametrize("name", [*OUTSIDE[:5], "..", "a\0", "loop/a", "x" * 5000])
def test_manifests_of_weights(folder, name):
  row = {"sha256": folders.sha256(folder / "own.mp4"), "bytes": 3}
  manifest = {"files": {"own.mp4": row, name: row}}
  (folder / folders.MANIFEST).write_text(json.dumps(manifest))
  with pytest.raises(ValueError, match=r"not in its folder|is missing") as error:
    folders.verify(folder)
  assert "secret" not in str(error.value).replace(name, "")
  assert len(str(error.value)) < 800


@pytest.mark.parametrize(
  "prompt",
  ["../../etc/passwd", "/etc/passwd", "a\0b", "a/b\\c", "..", "", "\n\r\t", "-rf *",
   "𠀀" * 500, "x" * 5000, "con", "<script>", "é" * 100, "%2e%2e%2f", "\u202egnp.exe"],
)  # fmt: skip
def test_files_named_by_prompts(prompt, tmp_path):
  name = f"0000_{prompts.slug(prompt)}"
  frames = np.zeros((1, 2, 2, 3), np.uint8)
  path = video_files.write_video_or_image(tmp_path / name, frames, 8.0)
  assert path.parent == tmp_path and [p.name for p in tmp_path.iterdir()] == [path.name]
  assert all(letter.isalnum() or letter == "_" for letter in path.stem)


@pytest.mark.parametrize(
  "path",
  ["os:system", "subprocess:Popen", "builtins:eval", "../evil:A", "/tmp/evil:A", "evil:A",
   "sora_jax_evil:A", "sora_jax/../evil:A", "sora_jax..configlib:A", "sora_jax.configlib",
   "sora_jax.configlib:json", "sora_jax.configlib:config", "sora_jax.sharding:jax", ":", "",
   "sora_jax.sharding:MeshConfig.make", "sora_jax.nowhere:A", "sora_jax.training.loop:api",
   "data_pipelines.isolated:Bounds.__init__", "sora_jax:__doc__", 5, None, ["sora_jax"]],
)  # fmt: skip
def test_configs_name_our_classes_only(path):
  with pytest.raises(ValueError, match=r"config\.json names"):
    configlib.from_json(json.dumps({"a": {"__class__": path}}))


_TEXT = "tensorflow_datasets.core.features.text_feature.Text"
_EVIL = {"type": "evil.features.X", "content": {}}


@pytest.mark.parametrize(
  ("file", "change"),
  [
    ("features.json", {"pythonClassName": "os.path.X"}),
    ("features.json", {"pythonClassName": "tensorflow_datasets.core.features.evil.X"}),
    ("features.json", {"pythonClassName": [_TEXT]}),
    ("features.json", {"python_class_name": "evil.features.X"}),
    ("features.json", _EVIL),
    ("features.json", {"features_dict": {"features": {"a": _EVIL}}}),
    ("features.json", {"jsonFeature": {"json": json.dumps({"a": _EVIL})}}),
    ("features.json", {"featuresDict": {"features": {"a": _EVIL}}}),
    ("features.json", {"featuresDict": {"features": {"a": _EVIL | {
      "pythonClassName": _TEXT}}}}),
    ("features.json", {"featuresDict": {"features": {"../a": {
      "pythonClassName": _TEXT}}}}),
    ("features.json", {"featuresDict": [_EVIL]}),
    ("dataset_info.json", {"name": "../latents"}),
    ("dataset_info.json", {"fileFormat": "x/../../y"}),
    ("dataset_info.json", {"module_name": "evil"}),
    ("dataset_info.json", {"splits": [{"name": "../train"}]}),
    ("dataset_info.json", {"splits": [{"filepathTemplate": "/etc/{DATASET}"}]}),
    ("dataset_info.json", {"splits": [{"filepath_template": "../{DATASET}"}]}),
    ("dataset_info.json", {"splits": {"filepath_template": "../{DATASET}"}}),
    ("dataset_info.json", {"splits": ["../train"]}),
  ],
)  # fmt: skip
def test_datasets_describe_themselves_only(latents_path, tmp_path, file, change):
  """TFDS imports the classes that are named, and fills names into paths."""
  for name in ("features.json", "dataset_info.json"):
    shutil.copy(pathlib.Path(latents_path, name), tmp_path)
  datasets.check_description(tmp_path)
  described = json.loads((tmp_path / file).read_text())
  (tmp_path / file).write_text(json.dumps({**described, **change}))
  told = "names the class|leads out|has the field|in place of an object"
  with pytest.raises(ValueError, match=rf"{file}.*({told})"):
    datasets.check_description(tmp_path)


def test_a_class_that_is_named_is_not_imported(latents_path, tmp_path, monkeypatch):
  """Of the spellings that TFDS takes, by its own reader."""
  monkeypatch.syspath_prepend(tmp_path)
  canary = tmp_path / "canary"
  for number, key in enumerate(("pythonClassName", "python_class_name", "type")):
    (tmp_path / f"evil{number}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    evil = {key: f"evil{number}.X", **({"content": {}} if key == "type" else {"text": {}})}
    for name in ("features.json", "dataset_info.json"):
      shutil.copy(pathlib.Path(latents_path, name), tmp_path)
    (tmp_path / "features.json").write_text(json.dumps(evil))
    with pytest.raises(ValueError, match=r"features\.json names the class"):
      rows.open_source(str(tmp_path), "train")
    assert not canary.exists()
    with pytest.raises(ValueError, match="evil"):
      tfds.features.FeatureConnector.from_config(str(tmp_path))
    assert canary.exists(), "or this shows nothing"
    canary.unlink()
