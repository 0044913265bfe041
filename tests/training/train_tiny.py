"""Trains the tiny run of tests/conftest.py and samples from it, on all devices at hand.

  python tests/training/train_tiny.py DATASET WORKDIR CODEC

Used by: test_processes.py, there and through launch.local.
"""

import pathlib
import sys

import numpy as np


def run(dataset: str, workdir: pathlib.Path, codec: pathlib.Path) -> None:
  """The losses are in WORKDIR/metrics.jsonl, latents of two prompts in samples.npz."""
  from sora_jax import distributed, sharding
  from sora_jax.diffusion import samplers
  from sora_jax.generation import canvas, generator
  from sora_jax.training import loop
  from tests import conftest

  loop.train(conftest.tiny_config(dataset, codec=str(codec)), workdir)
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
  run(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
