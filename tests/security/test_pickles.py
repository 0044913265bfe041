"""No code of ours unpickles or evaluates anything, and no file makes it do so."""

import ast
import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import safetensors.numpy

from data_pipelines import captioned_files, media, spool
from data_pipelines.limits import Limits, MediaError
from sora_jax import configlib
from sora_jax.export import sources
from sora_jax.generation import codec, generator, prompts, video_files
from sora_jax.serving import studio
from sora_jax.text import pretrained
from sora_jax.vae import wan_weights
from sora_jax.weights import folders, orbax_files, safetensors_files

ROOT = pathlib.Path(__file__).parents[2]
WAN = ROOT / "tests" / "vae" / "reference" / "wan21"
PACKAGES = ("sora_jax", "data_pipelines", "configs", "launch", "benchmarks")
# Modules that unpickle, or send pickles between processes.
MODULES = {
  "pickle", "_pickle", "cPickle", "pickletools", "dill", "cloudpickle", "joblib", "shelve",
  "marshal", "multiprocessing", "copyreg", "yaml", "xmlrpc", "code", "codeop",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = ("torch.load", "yaml.load", "os.system", "os.popen", "ProcessPoolExecutor")
WORDS = {"allow_pickle": False, "trust_remote_code": False, "shell": False,
         "use_safetensors": True, "weights_only": True}  # fmt: skip


def wrong(program: str, allowed: frozenset[str] = frozenset()) -> list[str]:
  """What must not stand in a program, with its line."""
  found, tree = [], ast.parse(program)
  for node in ast.walk(tree):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name.split(".")[0] for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [(node.module or "").split(".")[0]]
    bad = (MODULES - allowed) & set(names)
    if isinstance(node, ast.Call):
      function = ast.unparse(node.func)
      bad |= {function} & CALLS
      bad |= {name for name in METHODS if f".{function}".endswith(f".{name}")}
      for word in node.keywords:
        if word.arg in WORDS and ast.unparse(word.value) != str(WORDS[word.arg]):
          bad.add(ast.unparse(word))
    found += [f"{getattr(node, 'lineno', 0)}: {name}" for name in sorted(bad)]
  return found


def test_no_program_of_ours_unpickles_or_evaluates():
  paths = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
  assert len(paths) > 100
  # Benchmarks measure in processes of their own, and read nobody's files.
  measured, none = frozenset({"multiprocessing"}), frozenset()
  found = {
    str(path): wrong(path.read_text(), measured if "benchmarks" in path.parts else none)
    for path in paths
  }
  assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
  "program",
  ["import pickle", "from pickle import loads", "import multiprocessing.pool as p",
   "eval('1')", "torch.load(f)", "np.load(f, allow_pickle=True)", "run(x, shell=True)",
   "a.from_pretrained(f, trust_remote_code=yes)", "os.system('ls')",
   "futures.ProcessPoolExecutor()", "exec(text)", "__import__('os')"],
)  # fmt: skip
def test_the_search_finds(program):
  assert wrong(program)


class Trap:
  """Makes a file, where somebody unpickles it."""

  def __init__(self, canary):
    self.canary = str(canary)

  def __reduce__(self):
    return open, (self.canary, "w")


@pytest.fixture
def trap(tmp_path):
  """A pickle; fails the test that sprang it."""
  canary = tmp_path / "canary"
  bait = pickle.dumps(Trap(canary))
  pickle.loads(bait)
  assert canary.exists(), "it does spring"
  canary.unlink()
  yield bait
  assert not canary.exists()


def objects(path, canary, save=np.save):
  """An array of numpy with a pickle in it."""
  save(path, np.array([Trap(canary)], dtype=object), allow_pickle=True)


def test_weights(trap, tmp_path):
  file = tmp_path / "model.safetensors"
  file.write_bytes(trap)
  with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
    safetensors_files.read(file)
  (tmp_path / "model.safetensors.index.json").write_bytes(trap)
  with pytest.raises(ValueError, match="not an index"):
    safetensors_files.read(tmp_path)
  for name in ("pytorch_model.bin", "a.pt", "b.ckpt", "c.pkl"):
    folder = tmp_path / name.replace(".", "_")
    folder.mkdir()
    (folder / name).write_bytes(trap)
    with pytest.raises(ValueError, match=f"only pickles .{name}"):
      safetensors_files.read(folder)
    with pytest.raises(ValueError, match="is a pickle"):
      safetensors_files.read(folder / name)


def test_folders_of_models(trap, tmp_path):
  (tmp_path / "config.json").write_bytes(trap)
  for read in (
    sources.open_source, codec.Codec, generator.Generator, wan_weights.load,
    pretrained.PretrainedText, lambda folder: configlib.read(folder / "config.json"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=r"config\.json"):
      read(tmp_path)
  (tmp_path / "manifest.json").write_bytes(trap)
  with pytest.raises(ValueError, match="not a manifest"):
    folders.verify(tmp_path)


def test_a_codec_of_others(trap, tmp_path):
  (tmp_path / "wan").mkdir()
  shutil.copy(WAN / "config.json", tmp_path / "wan")
  (tmp_path / "wan" / wan_weights.WEIGHTS).write_bytes(trap)
  for read in (wan_weights.load, codec.Codec, sources.open_source):
    with pytest.raises(ValueError, match=f"{wan_weights.WEIGHTS} is damaged"):
      read(tmp_path / "wan")


def test_checkpoints(trap, tmp_path, helpers):
  helpers.write_codec(tmp_path / "run")
  (step,) = (tmp_path / "run" / "checkpoints").iterdir()
  for path in step.rglob("*"):
    if path.is_file() and path.name != folders.MANIFEST:
      path.write_bytes(trap)
  for read in (codec.Codec, sources.open_source):
    with pytest.raises(ValueError, match="is not what was written"):
      read(tmp_path / "run")
  (step / folders.MANIFEST).unlink(missing_ok=True)
  with pytest.raises(ValueError, match="params"):
    orbax_files.read(step / "params")


def test_text_encoders(trap, tmp_path):
  (tmp_path / "config.json").write_text('{"model_type": "t5"}')
  (tmp_path / "pytorch_model.bin").write_bytes(trap)
  with pytest.raises(ValueError, match=r"only pickles \(pytorch_model\.bin\)"):
    pretrained.PretrainedText(tmp_path)
  (tmp_path / "model.safetensors").write_bytes(trap)
  with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
    pretrained.PretrainedText(tmp_path)


def test_frames_on_the_way(trap, tmp_path):
  (tmp_path / "0").mkdir()
  (tmp_path / "0" / "0000.npy").write_bytes(trap)
  objects(tmp_path / "0" / "0001.npy", tmp_path / "canary")
  np.save(tmp_path / "0" / "0002.npy", np.zeros((1, 2, 2, 3)))
  np.savez(tmp_path / "x.npz", a=np.zeros(3))
  (tmp_path / "x.npz").rename(tmp_path / "0" / "0003.npy")
  header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999, 64, 64, 3)}\n"
  claims = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
  (tmp_path / "0" / "0004.npy").write_bytes(claims)
  for clip in range(5):
    with pytest.raises(ValueError, match=rf"000{clip}\.npy is not a clip"):
      spool.load(tmp_path, 0, clip)


def test_sampled_frames(trap, tmp_path):
  path = tmp_path / "frames.npz"
  objects(path, tmp_path / "canary", lambda p, x, allow_pickle: np.savez(p, **{"0000": x}))
  with pytest.raises(ValueError, match="allow_pickle"):
    video_files.read_frames(path)["0000"]
  np.save(tmp_path / "one.npy", np.zeros(3))
  for bad in (trap, b"PK\x03\x04" + trap, b"", (tmp_path / "one.npy").read_bytes()):
    path.write_bytes(bad)
    with pytest.raises(ValueError, match="not a file of frames"):
      video_files.read_frames(path)


def test_media_and_their_captions(trap, tmp_path):
  for name in ("a.mp4", "a.png", "a.npy"):
    (tmp_path / name).write_bytes(trap)
    with pytest.raises(MediaError):
      media.read(tmp_path / name, Limits())
  for name in ("manifest.jsonl", "manifest.csv", "manifest.parquet"):
    (tmp_path / name).write_bytes(trap)
    with pytest.raises(ValueError, match=name):
      captioned_files.find(tmp_path)
    (tmp_path / name).unlink()
  (tmp_path / "a.txt").write_bytes(trap)
  assert {file.problem for file in captioned_files.find(tmp_path)} == {"bad_caption"}


def test_prompts_and_results(trap, tmp_path):
  (tmp_path / "1.json").write_bytes(trap)
  with pytest.raises(ValueError, match="not text in UTF-8"):
    prompts.read(tmp_path / "1.json")
  assert studio._standing(tmp_path) == {}


def test_ours_are_read_by_anybody(tmp_path):
  """What we write has no pickles either."""
  config, params, other = wan_weights.load(WAN)
  wan_weights.save(tmp_path, config, params, other)
  assert safetensors.numpy.load_file(tmp_path / wan_weights.WEIGHTS)
  assert json.loads((tmp_path / "config.json").read_text())
