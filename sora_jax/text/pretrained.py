"""Published text encoders, to embed captions beforehand: T5, UMT5 and CLIP.

They run through `transformers` on torch (pip install -e .[text]), on the CPU or a GPU,
and are not trained. Weights come from safetensors only, since other files can run code
when they are read; neither code nor files are fetched from anywhere. Embeddings come
without padding: one vector for each token of the caption itself, the end of text
included.

Shapes: m tokens of a caption, D width of the encoder.
Used by: data_pipelines/jobs/encode_latents.py.
"""

import hashlib
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from sora_jax.weights import folders, safetensors_files

# model_type of a folder's config.json -> the class of transformers that is its encoder.
_ENCODERS = {
  "t5": "T5EncoderModel",
  "umt5": "UMT5EncoderModel",
  "clip": "CLIPTextModel",
  "clip_text_model": "CLIPTextModel",
}
# Of those that lie there, the files that decide on a caption's tokens.
_TOKENIZER_FILES = (
  "added_tokens.json", "merges.txt", "special_tokens_map.json", "spiece.model",
  "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
)  # fmt: skip
_CAPTIONS_AT_ONCE = 32


class PretrainedText:
  """The encoder of a folder in transformers' layout, with its tokenizer.

  The two lie in one folder, or as text_encoder/ and tokenizer/ in that of a pipeline.
  """

  def __init__(self, folder: str | pathlib.Path, *, max_tokens: int = 512):
    """Longer captions are cut to `max_tokens`.

    Raises:
      ValueError: transformers is missing, or the folder is not one of its encoders, has
        no safetensors, or is damaged.
    """
    parts = pathlib.Path(folder) / "text_encoder", pathlib.Path(folder) / "tokenizer"
    places = parts if all(part.is_dir() for part in parts) else (folder, folder)
    encoder, tokenizer = (pathlib.Path(place) for place in places)
    kind = _kind(encoder, folder)
    safetensors_files.check(encoder)  # names a folder of pickles before anything is read
    try:
      import torch
      import transformers
    except ImportError as error:
      raise ValueError(
        f"--text_encoder needs torch and transformers: pip install -e .[text] ({error})"
      ) from error
    self._torch = torch
    self._device = "cuda" if torch.cuda.is_available() else "cpu"
    load = getattr(transformers, _ENCODERS[kind]).from_pretrained
    try:
      model = load(str(encoder), use_safetensors=True, local_files_only=True)
      self._tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(tokenizer), trust_remote_code=False, local_files_only=True
      )
    except Exception as error:  # of nearly any kind, where a file is damaged
      reason = (str(error).strip() or type(error).__name__).splitlines()[0]
      raise ValueError(f"--text_encoder={folder} cannot be read: {reason}") from error
    self._model = model.eval().to(self._device)
    files = [encoder / "config.json", *(tokenizer / name for name in _TOKENIZER_FILES)]
    self._files = [path for path in files if path.is_file()]
    longest = getattr(self._model.config, "max_position_embeddings", max_tokens)
    self.max_tokens = min(max_tokens, longest)

  def fingerprint(self) -> str:
    """A digest of encoder, tokenizer and length: equal ones give equal embeddings."""
    digest = hashlib.sha256(str(self.max_tokens).encode())
    for path in self._files:
      digest.update(f"{path.name}:{folders.sha256(path)}".encode())
    for name, value in sorted(self._model.state_dict().items()):
      digest.update(name.encode())
      digest.update(value.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]

  def encode(self, captions: Sequence[str]) -> list[np.ndarray]:
    """float32 [m, D] of each caption, as if it were alone."""
    # Like lengths together, so that little is computed for padding.
    order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    found: list = [None] * len(captions)
    for start in range(0, len(order), _CAPTIONS_AT_ONCE):
      chosen = order[start : start + _CAPTIONS_AT_ONCE]
      ids = self._tokenizer(
        [captions[i] for i in chosen], padding=True, truncation=True,
        max_length=self.max_tokens, return_tensors="pt",
      ).to(self._device)  # fmt: skip
      with self._torch.no_grad():
        out = self._model(input_ids=ids.input_ids, attention_mask=ids.attention_mask)
      hidden = out.last_hidden_state.float().cpu().numpy()
      for row, mask, i in zip(hidden, ids.attention_mask.cpu().numpy(), chosen):
        found[i] = row[mask.astype(bool)]
    return found


def _kind(encoder: pathlib.Path, folder: str | pathlib.Path) -> str:
  """What config.json says that the encoder is."""
  path = encoder / "config.json"
  if not path.is_file():
    raise ValueError(f"--text_encoder={folder} has no config.json of transformers")
  try:
    kind = json.loads(path.read_text(encoding="utf-8"))["model_type"]
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise ValueError(f"{path} does not name a model_type: {error!r}") from error
  if not isinstance(kind, str) or kind not in _ENCODERS:
    raise ValueError(
      f"--text_encoder={folder} is a {kind!r}; it must be one of {sorted(_ENCODERS)}"
    )
  return kind
