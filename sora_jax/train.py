"""Trains whatever the config describes.

  python -m sora_jax.train --config=configs/demo.py:dit --workdir=runs/mine \\
      --config.data.path=DATASET --config.num_steps=2000

Any field of the config can be given as --config.a.b=VALUE. A workdir that holds a
checkpoint of the same config is resumed.
"""

from absl import flags
from ml_collections import config_flags

from sora_jax import cli, distributed
from sora_jax.training import loop

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run: FILE.py[:ARG].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Checkpoints, metrics and config.json.")
flags.mark_flags_as_required(["config", "workdir"])
# Looks into the config, since config_flags reports a missing file at first use only.
flags.register_validator(
  "config", lambda config: hasattr(config, "num_steps"), "--config must give a TrainConfig"
)


def main() -> None:
  distributed.initialize()
  loop.train(_CONFIG.value, _WORKDIR.value)


if __name__ == "__main__":
  cli.run(main)
