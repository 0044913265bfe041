"""The model card (README.md) that stands beside exported weights.

What is not known is said to be unknown: a licence and the sources of the training data
are for whoever publishes the weights to state.

Used by: targets.py.
"""

import datetime
import json
import pathlib
import subprocess

from sora_jax import configlib
from sora_jax.export.sources import Source

_LOAD = {
  "safetensors": "python -m sora_jax.convert --source=FOLDER --to=orbax --out=WORKDIR",
  "orbax": 'python -m sora_jax.sample --workdir=FOLDER --prompt="..." --out=DIR',
  "diffusers": (
    "WanPipeline.from_pretrained(FOLDER), with text_encoder=None, tokenizer=None where "
    "the folder has none and prompt_embeds are given"
  ),
  "stablehlo": "python FOLDER/example.py",
}


def text(source: Source, kind: str, licence: str) -> str:
  """The card, in Markdown with the front matter that model hubs read."""
  count = sum(x.size for x in source.params.values())
  dtypes = sorted({x.dtype.name for x in source.params.values()})
  task = "image-feature-extraction" if source.is_codec else "text-to-video"
  metrics = source.origin.get("metrics") or {}
  told = {k: v for k, v in metrics.items() if k not in ("step", "time")}
  rows = "\n".join(f"| {k} | {v:.6g} |" for k, v in told.items()) or "| not known | |"
  return f"""---
license: {licence or "unknown"}
pipeline_tag: {task}
library_name: {"diffusers" if kind == "diffusers" else "sora_jax"}
---

# {"Video compression network" if source.is_codec else "Text-to-video model"}

| | |
|---|---|
| parameters | {count:,} |
| dtype | {", ".join(dtypes)} |
| training steps | {source.step or "not known"} |
| weights | {source.origin.get("weights", "as found")} |
| came from | {source.origin.get("from", "not known")} |
| written by | sora_jax, revision {_revision()}, {datetime.date.today().isoformat()} |
| licence | {licence or "not stated; ask whoever gave you this, do not assume one"} |

To use it: `{_LOAD[kind]}`

Every file's sha256 stands in `manifest.json`; `python -m sora_jax.convert` checks it
before it reads the folder.

## Training data

{_data(source)}

## Metrics of the last step that was logged

| metric | value |
|---|---|
{rows}

## Configuration

```json
{configlib.to_json(source.objective)}
```
"""


def _data(source: Source) -> str:
  data = source.origin.get("data")
  if not data:
    return "Not known to the program that wrote this card."
  described = {k: v for k, v in data.items() if isinstance(v, str | int | float | list)}
  described["path"] = pathlib.Path(str(described.get("path", ""))).name
  return (
    "The dataset's settings, as the run had them; who owns the videos and captions, and "
    "under which terms, is for the publisher to add.\n\n"
    f"```json\n{json.dumps(described, indent=1)}\n```"
  )


def _revision() -> str:
  """The git revision of this code, where it is a checkout."""
  here = pathlib.Path(__file__).parent
  try:
    found = subprocess.run(
      ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True
    )
  except OSError:
    return "not known"
  return found.stdout.strip() or "not known"
