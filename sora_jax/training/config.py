"""TrainConfig: everything that a run is, as one tree.

Used by: configs/*.py (which build it), training/loop.py (which runs it).
"""

import dataclasses
import re

from sora_jax import api, sharding
from sora_jax.configlib import config
from sora_jax.training import guard as guard_lib
from sora_jax.training import optimizer


@config
class TrainConfig:
  """A run."""

  objective: api.Objective
  data: api.BatchSource
  optimizer: optimizer.Muon | optimizer.AdamW
  mesh: sharding.MeshConfig
  num_steps: int
  seed: int = 0
  ema_decay: float | None = 0.999  # of the moving average; None keeps none
  accumulate: int = 1  # parts that a step's rows are taken in, one after another
  guard: guard_lib.Guard = dataclasses.field(default_factory=guard_lib.Guard)
  warm_start: api.WarmStart | None = None  # of a new run's parameters
  codec: str = ""  # workdir of the autoencoder that made the latents
  log_every: int = 10  # steps
  checkpoint_every: int = 500  # steps; the last step is always saved
  keep_checkpoints: int = 2  # the newest ones
  keep_every: int = 0  # steps; a checkpoint at each multiple is kept for good; 0 none
  verify_checkpoints: float = 1.0  # part of a checkpoint's files hashed on the way back
  wandb_project: str = ""  # also log to Weights & Biases (pip install wandb)


# What may differ when a run is resumed. The parts of a mixture (data_pipelines/mixture.py)
# have positions of their own, so that they may come, go, and change their weights.
_NEUTRAL = re.compile(
  r"(mesh|log_every|checkpoint_every|keep_checkpoints|keep_every|verify_checkpoints|codec"
  r"|wandb_project)(\..*)?"
  r"|guard\.(stop_after|max_roll_backs|roll_back_after)"
  r"|data\.(parts\.[^.]+\.data\.)?max_bad_records"
  r"|data\.parts\.[^.]+(\.weight)?"
)


def is_neutral(path: str) -> bool:
  """Whether a run may be resumed with another value of the field at a path, "a.b.c"."""
  return _NEUTRAL.fullmatch(path) is not None
