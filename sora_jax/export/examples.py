"""The programs that stand beside exported StableHLO and run it: JAX and safetensors only.

Used by: stablehlo.py, which writes them as example.py.
"""

from sora_jax.export.sources import Source


def codec() -> str:
  return _LOAD + _CODEC


def denoiser(source: Source) -> str:
  model = source.objective.model
  backbone = model.backbone
  text = "np.ones((1, m), np.int32)"
  if source.takes_embeddings:
    text = f"np.zeros((1, m, {model.text.width}), np.float32)"
  more = ""
  if backbone.condition_dim:
    more += f'  "condition": np.zeros((1, n, {backbone.condition_dim}), np.float32),\n'
  if backbone.image_dim:
    more += f'  "image": np.zeros((1, 8, {backbone.image_dim}), np.float32),\n'
    more += '  "image_segment_ids": np.ones((1, 8), np.int32),\n'
  filled = _DENOISER.replace("TOKEN_DIM", str(backbone.token_dim)).replace("TEXT", text)
  return _LOAD + filled.replace("  MORE\n", more)


_LOAD = """import pathlib

import jax
import numpy as np
from jax import export
from safetensors.flax import load_file

here = pathlib.Path(__file__).parent
weights = {}
for file in sorted(here.glob("model*.safetensors")):
  weights |= load_file(file)


def program(name):
  return jax.jit(export.deserialize(bytearray((here / name).read_bytes())).call)

"""

_CODEC = """
frames = np.zeros((1, 5, 32, 48, 3), np.float32)  # in [-1, 1]
latents = program("encode.stablehlo")(weights, frames)
print("latents", latents.shape)
print("frames", program("decode.stablehlo")(weights, latents).shape)
"""

_DENOISER = """
# Twenty Euler steps for one clip of 2 x 4 x 4 patches and a caption of 8 tokens.
size, n, m = (2, 4, 4), 32, 8
places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
inputs = {
  "positions": places.reshape(1, n, 3).astype(np.int32),
  "segment_ids": np.ones((1, n), np.int32), "known": np.zeros((1, n), bool),
  "text": TEXT, "text_segment_ids": np.ones((1, m), np.int32),
  "text_positions": np.arange(m, dtype=np.int32)[None],
  "text_dropped": np.zeros((1, 1), bool), "sizes": np.int32([[size]]),
  MORE
}
denoise = program("denoise.stablehlo")
x = np.random.default_rng(0).standard_normal((1, n, TOKEN_DIM), np.float32)
times = np.linspace(1, 0, 21, dtype=np.float32)
for t, after in zip(times, times[1:]):
  velocity = denoise(weights, {"xt": x, "t": np.full((1, 1), t), **inputs})
  x = x + (after - t) * np.asarray(velocity)
print("latent tokens", x.shape, "std", x.std())
"""
