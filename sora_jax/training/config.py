"""TrainConfig: everything that a run is, as one tree.

Used by: configs/*.py (which build it), training/loop.py (which runs it).
"""

from sora_jax import api, sharding
from sora_jax.configlib import config
from sora_jax.training import optimizer


@config
class TrainConfig:
  """A run. Fields that do not change the result are named in `NEUTRAL`."""

  objective: api.Objective
  data: api.BatchSource
  optimizer: optimizer.Muon | optimizer.AdamW
  mesh: sharding.MeshConfig
  num_steps: int
  seed: int = 0
  ema_decay: float | None = 0.999  # of the moving average; None keeps none
  accumulate: int = 1  # parts that a step's rows are taken in, one after another
  warm_start: api.WarmStart | None = None  # of a new run's parameters
  codec: str = ""  # workdir of the autoencoder that made the latents
  log_every: int = 10  # steps
  checkpoint_every: int = 500  # steps; the last step is always saved
  keep_checkpoints: int = 2
  wandb_project: str = ""  # also log to Weights & Biases (pip install wandb)


# Fields that may differ when a run is resumed.
NEUTRAL = ("mesh", "log_every", "checkpoint_every", "keep_checkpoints", "codec",
           "wandb_project")  # fmt: skip
