"""Trains whatever the config describes.

  python -m sora_jax.train --config=configs/demo.py:dit --workdir=runs/mine \\
      --config.data.path=DATASET --config.num_steps=2000

Any field of the config can be given as --config.a.b=VALUE. A workdir that holds a
checkpoint of the same config is resumed. --debug_nans=STEP trains nothing: it computes a
step whose update was left out once more, one operation at a time, and says where the
numbers stop being finite.
"""

import os
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from sora_jax import cli, configlib, distributed
from sora_jax.training import loop, rerun

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run: FILE.py[:ARG].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Checkpoints, metrics and config.json.")
_DEBUG_NANS = flags.DEFINE_integer(
  "debug_nans", None, "A step of WORKDIR/skipped to compute again, one process."
)
flags.mark_flags_as_required(["config", "workdir"])
# Looks into the config, since config_flags reports a missing file at first use only.
flags.register_validator(
  "config", lambda config: hasattr(config, "num_steps"), "--config must give a TrainConfig"
)


def main() -> None:
  config = configlib.check(_CONFIG.value)
  if _DEBUG_NANS.value is not None:
    lines = rerun.rerun(config, pathlib.Path(_WORKDIR.value), _DEBUG_NANS.value)
    print("\n".join(lines))
    return
  distributed.initialize()
  state = loop.train(config, _WORKDIR.value)
  if int(state.step) < config.num_steps:
    # SIGTERM ended it. Launchers that look at exit codes say which one means "again".
    sys.exit(int(os.environ.get("SORA_JAX_PREEMPTED_CODE", "0")))


if __name__ == "__main__":
  cli.run(main)
