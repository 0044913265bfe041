"""Encoding and decoding with the Wan 2.1 autoencoder: ours against diffusers'.

  make test-parity     (makes .venv-parity, which has torch)
  .venv-parity/bin/python -m benchmarks.vae_speed --out=benchmarks/results

The same random weights and the same clip, both on the processor that is there, in turn;
the ratio is diffusers' time over ours, so above 1 we are faster. Beside it stands the
share of our time that each part of the network takes.
"""

import functools
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from flax import nnx

from sora_jax import cli
from sora_jax.nn.skeleton import Skeleton
from sora_jax.vae import streaming, wan_weights
from sora_jax.vae.causal import Stream


def seconds(call: Callable) -> float:
  """Of one call."""
  started = time.perf_counter()
  call()
  return time.perf_counter() - started


def parts(model, video: jax.Array) -> dict[str, float]:
  """Share of the encoder's time by its parts, each timed alone on one chunk."""
  encoder, shares = model.encoder, {}
  layers = [("conv_in", encoder.conv_in)]
  layers += [
    (f"down_blocks.{i} {type(b).__name__}", b) for i, b in enumerate(encoder.down_blocks)
  ]
  layers.append(("mid_block", encoder.mid_block))
  x = video
  for name, layer in layers:
    graphdef, arrays = nnx.split(layer)
    apply = jax.jit(lambda a, x, g=graphdef: nnx.merge(g, a)(x, Stream()))
    following = jax.block_until_ready(apply(arrays, x))
    call = functools.partial(apply, arrays, x)
    shares[name] = seconds(lambda call=call: jax.block_until_ready(call()))
    x = following
  total = sum(shares.values())
  return {name: round(value / total, 3) for name, value in shares.items()}


def setting(device: str) -> dict:
  """What is measured, and on what."""
  return {
    "hardware": torch.cuda.get_device_name() if device == "cuda" else
                f"{os.cpu_count()} x {platform.machine()} CPU cores",
    "versions": {"jax": jax.__version__, "torch": torch.__version__,
                 "diffusers": diffusers.__version__},
    "clip": "{2} frames, {0}x{1} pixels".format(*_SIZE.value), "dtype": "float32",
  }  # fmt: skip


def in_turn(ours: Callable, theirs: Callable, rounds: int) -> dict[str, float]:
  """Both calls, one after the other, `rounds` times; the medians and their ratio."""
  ours(), theirs()
  times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
  return {
    "ours_s": round(statistics.median(a for a, _ in times), 3),
    "diffusers_s": round(statistics.median(b for _, b in times), 3),
    "ratio": round(statistics.median(b / a for a, b in times), 3),
  }


def main() -> None:
  height, width, frames = (int(v) for v in _SIZE.value)
  torch.manual_seed(0)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  reference = diffusers.AutoencoderKLWan().eval()
  with tempfile.TemporaryDirectory() as folder:
    reference.save_pretrained(folder)
    config, params, other = wan_weights.load(folder)
  reference = reference.to(device)
  skeleton = Skeleton.of(config.make)
  params, other = jax.device_put((params, other))
  ours = streaming.Streamer(
    skeleton, params, other, config.compression,
    streaming.Pieces(positions=_POSITIONS.value),
  )  # fmt: skip
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (1, frames, height, width, 3)).astype(np.uint8)
  theirs = torch.from_numpy(video.transpose(0, 4, 1, 2, 3) / 127.5 - 1).float()
  theirs = theirs.to(device)
  latents = ours.encode(video)
  model = skeleton.merge(params, other)
  mean, std = model.latent_moments()
  raw = torch.from_numpy(latents * np.asarray(std) + np.asarray(mean))
  raw = raw.permute(0, 4, 1, 2, 3).float().to(device)

  def synchronized(call: Callable) -> Callable:
    def run():
      with torch.no_grad():
        call()
      if device == "cuda":
        torch.cuda.synchronize()

    return run

  result = setting(device)
  for name, mine, other_call in (
    ("encode", lambda: ours.encode(video), lambda: reference.encode(theirs)),
    ("decode", lambda: ours.decode(latents), lambda: reference.decode(raw)),
  ):
    result[name] = in_turn(mine, synchronized(other_call), _ROUNDS.value)
    print(name, result[name])
  chunk = jnp.asarray(video[:, :5] / 127.5 - 1, jnp.float32)
  result["encode_shares"] = parts(model, chunk)
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  path = out / f"vae_speed_{device}.json"
  path.write_text(json.dumps(result, indent=1))
  print(path.read_text())


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for vae_speed_DEVICE.json.")
  _SIZE = flags.DEFINE_list("size", ["128", "192", "9"], "Height, width, frames.")
  _POSITIONS = flags.DEFINE_integer("positions", 4096, "Latents at once.")
  _ROUNDS = flags.DEFINE_integer("rounds", 3, "Of both, in turn.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
