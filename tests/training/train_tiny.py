"""Trains the tiny run of tests/conftest.py and samples from it, on all devices at hand.

  python tests/training/train_tiny.py DATASET WORKDIR CODEC [SIGTERM|SIGKILL]

The signal is what process 1 gets at its third step. With SIGTERM, as of a machine that is
taken away, the run ends soon after, on all processes at one step; with SIGKILL the others
find that one is lost.

Used by: test_processes.py, there and through launch.local.
"""

import os
import pathlib
import signal
import sys
import time

import numpy as np

NUM_STEPS = 8


def signal_at(step: int, number: signal.Signals) -> None:
  """Steps become slow enough for the others to hear of it; at `step` comes the signal."""
  import jax

  from sora_jax import distributed

  original, count = distributed.to_global, iter(range(1000))

  def slowly(mesh, local):
    if next(count) == step and jax.process_index() == 1:
      os.kill(os.getpid(), number)
    time.sleep(0.5)
    return original(mesh, local)

  distributed.to_global = slowly


def run(
  dataset: str, workdir: pathlib.Path, codec: pathlib.Path, num_steps: int = NUM_STEPS
) -> None:
  """The losses are in WORKDIR/metrics.jsonl, latents of two prompts in samples.npz."""
  from sora_jax import distributed, sharding
  from sora_jax.diffusion import samplers
  from sora_jax.generation import canvas, generator
  from sora_jax.training import checkpoint, loop
  from tests import conftest

  config = conftest.tiny_config(
    dataset, codec=str(codec), num_steps=num_steps, checkpoint_every=100
  )
  loop.train(config, workdir)
  if checkpoint.newest_step(workdir) < num_steps:
    return
  model = generator.Generator(workdir, mesh=sharding.MeshConfig(fsdp=4, tensor=2))
  requests = [
    canvas.Request(prompt="a red circle", frames=5, height=16, width=24, seed=1),
    canvas.Request(prompt="clip number 3", frames=1, height=32, width=16, seed=2),
  ]
  latents = model.generate_latents(
    requests, sampler=samplers.Euler(num_steps=2), guidance_scale=2.0
  )
  if distributed.is_primary():
    np.savez(pathlib.Path(workdir) / "samples.npz", *latents)


if __name__ == "__main__":
  from sora_jax import distributed

  distributed.initialize()
  if sys.argv[4:]:
    signal_at(2, signal.Signals[sys.argv[4]])
  run(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
