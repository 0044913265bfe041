"""A run's folder: config.json says whose it is.

Used by: training/loop.py, export/.
"""

import pathlib
from typing import Any

from sora_jax import configlib, distributed
from sora_jax.training import config as train_config
from sora_jax.weights import folders


def claim(workdir: pathlib.Path, config: Any) -> None:
  """Writes config.json, or checks it against the one that stands.

  Raises:
    ValueError: the workdir belongs to a run with another config, or is a URL.
  """
  if workdir.parts[:1] == ("gs:",):
    raise ValueError(
      "--workdir=gs://... is not a folder: mount the bucket, as the launchers do with "
      "--bucket, and give /gcs/..."
    )
  path = workdir / "config.json"
  if path.exists():
    changes = configlib.differences(configlib.from_json(path.read_text()), config)
    refused = [line for line in changes if not train_config.is_neutral(line.split(":")[0])]
    if refused:
      raise ValueError(
        f"{workdir} holds a run with another config:\n  " + "\n  ".join(refused) + "\n"
        "Choose another --workdir, or give the options of that run to resume it."
      )
    mixture = [line for line in changes if line.startswith("data.")]
    if mixture and distributed.is_primary():
      print("resumed with other data:\n  " + "\n  ".join(mixture))
  if distributed.is_primary():
    workdir.mkdir(parents=True, exist_ok=True)
    text = configlib.to_json(config)
    if not path.exists() or path.read_text() != text:
      folders.write_whole(path, text)
