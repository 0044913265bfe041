"""How published encoders are opened: no pickles, no code, no network.

`transformers` is a stand-in here; tests/parity/test_text_encoders.py has the real one.
"""

import json
import sys
import types

import numpy as np
import pytest
import safetensors.numpy

from sora_jax.text import pretrained


@pytest.fixture
def asked(monkeypatch):
  """What transformers is asked for."""
  asked = {}

  def loader(name, fail=None):
    def from_pretrained(folder, **options):
      asked[name] = options
      if fail:
        raise fail
      model = types.SimpleNamespace(config=types.SimpleNamespace())
      model.eval = lambda: model
      model.state_dict = dict
      model.to = lambda device: model
      return model

    return types.SimpleNamespace(from_pretrained=from_pretrained)

  torch = types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: False))
  transformers = types.SimpleNamespace(
    T5EncoderModel=loader("model"), AutoTokenizer=loader("tokenizer"),
    CLIPTextModel=loader("model", KeyError("vocab_size\nand more")),
  )  # fmt: skip
  monkeypatch.setitem(sys.modules, "torch", torch)
  monkeypatch.setitem(sys.modules, "transformers", transformers)
  return asked


def write(folder, described):
  (folder / "config.json").write_text(described)
  safetensors.numpy.save_file({"a": np.zeros(3)}, folder / "model.safetensors")
  return folder


def test_only_safetensors_and_only_from_here(asked, tmp_path):
  encoder = pretrained.PretrainedText(write(tmp_path, '{"model_type": "t5"}'))
  assert encoder.max_tokens == 512
  assert asked["model"] == {"use_safetensors": True, "local_files_only": True}
  assert asked["tokenizer"] == {"trust_remote_code": False, "local_files_only": True}


@pytest.mark.parametrize("parts", [False, True])
def test_the_digest_is_also_of_the_tokenizer(asked, tmp_path, parts):
  """Other tokens of the same caption are other embeddings."""
  names = ("text_encoder", "tokenizer") if parts else (".", ".")
  folders = [tmp_path / name for name in names]
  for folder in folders:
    folder.mkdir(exist_ok=True)
  write(folders[0], '{"model_type": "t5"}')

  def digest(**options):
    return pretrained.PretrainedText(tmp_path, **options).fingerprint()

  seen = [digest(), digest(max_tokens=9)]
  for name in ("tokenizer.json", "spiece.model", "vocab.json", "merges.txt"):
    for content in ("one", "two"):
      (folders[1] / name).write_text(content)
      seen.append(digest())
  write(folders[0], '{"model_type": "t5", "num_heads": 3}')
  seen.append(digest())
  (folders[1] / "README.md").write_text("words")
  assert len(set(seen)) == len(seen) and digest() == seen[-1]


@pytest.mark.parametrize(
  ("described", "message"),
  [
    ("{", "does not name a model_type"), ("[]", "does not name"), ("{}", "does not name"),
    ('{"model_type": ["t5"]}', "must be one of"), ("[" * 99_999, "does not name"),
    (json.dumps({"model_type": "gpt2", "auto_map": {"AutoModel": "evil.py"}}), "a 'gpt2'"),
    ('{"model_type": "clip"}', r"cannot be read: 'vocab_size\\nand more'"),
  ],
)  # fmt: skip
def test_bad_folders_are_named(asked, tmp_path, described, message):
  with pytest.raises(ValueError, match=message) as error:
    pretrained.PretrainedText(write(tmp_path, described))
  assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
