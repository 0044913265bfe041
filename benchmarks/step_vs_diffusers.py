"""A training step of the denoiser: ours against diffusers' WanTransformer3DModel.

  make test-parity     (makes .venv-parity, which has torch)
  .venv-parity/bin/python -m benchmarks.step_vs_diffusers --out=benchmarks/results

The same dims, the same clips, forward, backward and AdamW, in turn in one process.
Clips of one size are a batch for diffusers; ours packs them into one row. Clips of mixed
sizes go through diffusers one after another, as it has no packing. On a GPU both run in
bfloat16, torch compiled; the ratio is diffusers' time over ours.
"""

import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from absl import flags

from sora_jax import cli
from sora_jax.models import dit
from sora_jax.nn import attention, packing
from sora_jax.nn.skeleton import Skeleton

CHANNELS, TEXT_DIM, TEXT_TOKENS = 16, 256, 32
# Latents (t, h, w) of each clip; patches are 1x2x2.
STREAMS = {
  "one clip of 1,024 tokens": [(4, 32, 32)],
  "four clips of 256 tokens": [(4, 16, 16)] * 4,
  "mixed: 512, 256, 128, 64, 32, 32 tokens": [
    (8, 16, 16), (4, 16, 16), (2, 16, 16), (1, 16, 16), (1, 8, 16), (1, 16, 8)],
}  # fmt: skip


def ours(sizes: list[tuple], width: int, depth: int, dtype: str) -> Callable:
  """One training step on the clips, packed into one row."""
  config = dit.DiTConfig(
    latent_channels=CHANNELS, width=width, depth=depth, num_heads=width // 64,
    mlp_dim=4 * width, text_dim=TEXT_DIM,
    attention=attention.AttentionConfig(block=256),
  )  # fmt: skip
  skeleton = Skeleton.of(config.make)
  params, other = jax.jit(skeleton.init)(jax.random.key(0))
  optimizer = optax.adamw(1e-4)
  rng = np.random.default_rng(0)
  grids = [(t, h // 2, w // 2) for t, h, w in sizes]
  lengths = [int(np.prod(grid)) for grid in grids]
  batch = packing.empty(
    1, tokens=sum(lengths), token_dim=config.token_dim, text=TEXT_TOKENS * len(sizes),
    segments=len(sizes), text_dim=TEXT_DIM,
  )  # fmt: skip
  for i, grid in enumerate(grids):
    packing.append(
      batch, 0, size=grid, tokens=rng.normal(size=(lengths[i], config.token_dim)),
      text=rng.normal(size=(TEXT_TOKENS, TEXT_DIM)), clip_id=i,
    )  # fmt: skip
  batch = jax.device_put(batch)
  t_BS = jnp.full((1, len(sizes)), 0.5)

  def loss(params):
    model = skeleton.merge({k: v.astype(dtype) if k.endswith("kernel") else v
                            for k, v in params.items()}, other)  # fmt: skip
    velocity = model(batch.tokens.astype(dtype), t_BS, batch.text, batch)
    return jnp.mean(jnp.square(velocity))

  @jax.jit
  def step(params, state):
    gradients = jax.grad(loss)(params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  carry = [params, optimizer.init(params)]

  def call() -> None:
    carry[:] = step(*carry)
    jax.block_until_ready(carry[0])

  return call


def theirs(sizes: list[tuple], width: int, depth: int, device: str) -> Callable:
  """The same with diffusers: a batch where sizes agree, else one clip at a time."""
  torch.manual_seed(0)
  model = diffusers.WanTransformer3DModel(
    patch_size=(1, 2, 2), num_attention_heads=width // 64, attention_head_dim=64,
    in_channels=CHANNELS, out_channels=CHANNELS, text_dim=TEXT_DIM, freq_dim=256,
    ffn_dim=4 * width, num_layers=depth, rope_max_seq_len=64,
  ).to(device)  # fmt: skip
  run = torch.compile(model) if device == "cuda" else model
  optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
  groups = [sizes] if len(set(sizes)) == 1 else [[size] for size in sizes]
  inputs = [
    (torch.randn(len(g), CHANNELS, *g[0], device=device),
     torch.randn(len(g), TEXT_TOKENS, TEXT_DIM, device=device)) for g in groups
  ]  # fmt: skip

  def call() -> None:
    optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
      for latents, text in inputs:
        t = torch.full((len(latents),), 500.0, device=device)
        velocity = run(latents, t, text, return_dict=False)[0]
        velocity.square().mean().backward()
    optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()

  return call


def seconds(call: Callable) -> float:
  started = time.perf_counter()
  call()
  return time.perf_counter() - started


def main() -> None:
  device = "cuda" if torch.cuda.is_available() else "cpu"
  dtype = "bfloat16" if device == "cuda" else "float32"
  result = {
    "hardware": torch.cuda.get_device_name() if device == "cuda" else
                f"{os.cpu_count()} x {platform.machine()} CPU cores",
    "versions": {"jax": jax.__version__, "torch": torch.__version__,
                 "diffusers": diffusers.__version__},
    "model": f"width {_WIDTH.value}, depth {_DEPTH.value}", "dtype": dtype, "streams": {},
  }  # fmt: skip
  for name, sizes in STREAMS.items():
    mine = ours(sizes, _WIDTH.value, _DEPTH.value, dtype)
    other = theirs(sizes, _WIDTH.value, _DEPTH.value, device)
    mine(), other(), other()
    times = [(seconds(mine), seconds(other)) for _ in range(_ROUNDS.value)]
    result["streams"][name] = {
      "ours_s": round(statistics.median(a for a, _ in times), 3),
      "diffusers_s": round(statistics.median(b for _, b in times), 3),
      "ratio": round(statistics.median(b / a for a, b in times), 3),
    }
    print(name, result["streams"][name], flush=True)
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  (out / f"step_vs_diffusers_{device}.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for step_vs_diffusers_DEVICE.json.")
  _WIDTH = flags.DEFINE_integer("width", 384, "Of both models; heads are 64 wide.")
  _DEPTH = flags.DEFINE_integer("depth", 6, "Blocks of both models.")
  _ROUNDS = flags.DEFINE_integer("rounds", 5, "Of both, in turn.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
