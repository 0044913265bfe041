"""Trains the tiny run of tests/conftest.py in a process of its own.

  python tests/training/train_tiny.py DATASET WORKDIR

Used by: test_processes.py, with JAX_NUM_PROCESSES and friends in the environment.
"""

import importlib.util
import pathlib
import sys


def main() -> None:
  path = pathlib.Path(__file__).parent.parent / "conftest.py"
  spec = importlib.util.spec_from_file_location("conftest", path)
  conftest = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(conftest)

  from sora_jax import distributed
  from sora_jax.training import loop

  distributed.initialize()
  loop.train(conftest.tiny_config(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
  main()
