"""Encoding and decoding with the Wan 2.1 autoencoder: ours against diffusers'.

  make test-parity     (makes .venv-parity, which has torch)
  .venv-parity/bin/python -m benchmarks.vae_speed --out=benchmarks/results

The same random weights and the same clip, both on the processor that is there, in turn;
the ratio is diffusers' time over ours, so above 1 we are faster. Beside it stands the
share of our time that each part of the network takes.
"""

import tempfile
from collections.abc import Callable

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from flax import nnx

from benchmarks import measuring
from sora_jax import cli
from sora_jax.nn.skeleton import Skeleton
from sora_jax.vae import streaming, wan_weights
from sora_jax.vae.causal import Stream


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
    shares[name] = measuring.seconds(apply, arrays, x)
    x = following
  total = sum(shares.values())
  return {name: round(value / total, 3) for name, value in shares.items()}


def measure(
  size: tuple[int, int, int], positions: int, rounds: int
) -> dict[str, dict[str, float]]:
  """Seconds of encoding and decoding a clip of (height, width, frames), and shares."""
  height, width, frames = size
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
    streaming.Pieces(positions=positions),
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

  result = {}
  for name, mine, other_call in (
    ("encode", lambda: ours.encode(video), lambda: reference.encode(theirs)),
    ("decode", lambda: ours.decode(latents), lambda: reference.decode(raw)),
  ):
    calls = {"ours": mine, "diffusers": synchronized(other_call)}
    result[name] = measuring.compare(calls, rounds)
    print(name, result[name])
  chunk = jnp.asarray(video[:, :5] / 127.5 - 1, jnp.float32)
  return result | {"encode_shares": parts(model, chunk)}


def main() -> None:
  height, width, frames = (int(v) for v in _SIZE.value)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  gpu = torch.cuda.get_device_name() if device == "cuda" else ""
  result = {
    "hardware": measuring.hardware(gpu),
    "versions": {"jax": jax.__version__, "torch": torch.__version__,
                 "diffusers": diffusers.__version__},
    "clip": f"{frames} frames, {height}x{width} pixels", "dtype": "float32",
    **measure((height, width, frames), _POSITIONS.value, _ROUNDS.value),
  }  # fmt: skip
  print(measuring.write(f"vae_speed_{device}", _OUT.value, result).read_text())


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for vae_speed_DEVICE.json.")
  _SIZE = flags.DEFINE_list("size", ["128", "192", "9"], "Height, width, frames.")
  _POSITIONS = flags.DEFINE_integer("positions", 4096, "Latents at once.")
  _ROUNDS = flags.DEFINE_integer("rounds", 3, "Of both, in turn.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
