"""A training step of the denoiser: ours against diffusers' WanTransformer3DModel.

  make test-parity     (makes .venv-parity, which has torch)
  .venv-parity/bin/python -m benchmarks.step_vs_diffusers --out=benchmarks/results

The same dims, the same clips, forward, backward and AdamW, in turn in one process.
Clips of one size are a batch for diffusers; ours packs them into one row. Clips of mixed
sizes go through diffusers one after another, as it has no packing. On a GPU both run in
bfloat16, torch compiled; the ratio is diffusers' time over ours.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from benchmarks import measuring
from sora_jax import cli
from sora_jax.models import dit
from sora_jax.nn import attention, packing
from sora_jax.nn.skeleton import Skeleton

TEXT_DIM, TEXT_TOKENS = 256, 32
# Latents (t, h, w) of each clip; patches are 1x2x2.
STREAMS = {
  "one clip of 1,024 tokens": [(4, 32, 32)],
  "four clips of 256 tokens": [(4, 16, 16)] * 4,
  "mixed: 512, 256, 128, 64, 32, 32 tokens": [
    (8, 16, 16), (4, 16, 16), (2, 16, 16), (1, 16, 16), (1, 8, 16), (1, 16, 8)],
}  # fmt: skip


def tokens_of(size: tuple[int, int, int]) -> int:
  """Of a clip of so many latents along t, h, w."""
  return size[0] * (size[1] // 2) * (size[2] // 2)


def ours(sizes: list[tuple], config: dit.DiTConfig, dtype: str) -> Callable:
  """One training step on the clips, packed into one row."""
  skeleton = Skeleton.of(config.make)
  params, other = jax.jit(skeleton.init)(jax.random.key(0))
  optimizer = optax.adamw(1e-4)
  rng = np.random.default_rng(0)
  batch = packing.empty(
    1, tokens=sum(map(tokens_of, sizes)), token_dim=config.token_dim,
    text=TEXT_TOKENS * len(sizes), segments=len(sizes), text_dim=config.text_dim,
  )  # fmt: skip
  for i, (t, h, w) in enumerate(sizes):
    packing.append(
      batch, 0, size=(t, h // 2, w // 2), clip_id=i,
      tokens=rng.normal(size=(tokens_of((t, h, w)), config.token_dim)),
      text=rng.normal(size=(TEXT_TOKENS, config.text_dim)),
    )  # fmt: skip
  batch = jax.device_put(batch)
  t_BS = jnp.full((1, len(sizes)), 0.5)

  def loss(params):
    model = skeleton.merge({k: v.astype(dtype) if k.endswith("kernel") else v
                            for k, v in params.items()}, other)  # fmt: skip
    velocity = model(batch.tokens.astype(dtype), t_BS, batch.text, batch)
    return jnp.mean(jnp.square(velocity))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state):
    gradients = jax.grad(loss)(params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  carry = [params, optimizer.init(params)]

  def call() -> None:
    carry[:] = step(*carry)
    jax.block_until_ready(carry[0])

  return call


def theirs(
  sizes: list[tuple], config: dit.DiTConfig, device: str, *, compiled: bool
) -> Callable:
  """The same with diffusers: a batch where sizes agree, else one clip at a time."""
  import diffusers  # here, so that `ours` can be measured where torch is not
  import torch

  torch.manual_seed(0)
  channels = config.latent_channels
  model = diffusers.WanTransformer3DModel(
    patch_size=config.patch, num_attention_heads=config.num_heads,
    attention_head_dim=config.width // config.num_heads, in_channels=channels,
    out_channels=channels, text_dim=config.text_dim, freq_dim=config.freq_dim,
    ffn_dim=config.mlp_dim, num_layers=config.depth, rope_max_seq_len=64,
  ).to(device)  # fmt: skip
  run = torch.compile(model) if compiled else model
  optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
  groups = [sizes] if len(set(sizes)) == 1 else [[size] for size in sizes]
  inputs = [
    (torch.randn(len(g), channels, *g[0], device=device),
     torch.randn(len(g), TEXT_TOKENS, config.text_dim, device=device)) for g in groups
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


def main() -> None:
  import diffusers
  import torch

  device = "cuda" if torch.cuda.is_available() else "cpu"
  dtype = "bfloat16" if device == "cuda" else "float32"
  gpu = torch.cuda.get_device_name() if device == "cuda" else ""
  width, depth = _WIDTH.value, _DEPTH.value
  config = dit.DiTConfig(
    width=width, depth=depth, num_heads=width // 64, mlp_dim=4 * width,
    text_dim=TEXT_DIM, attention=attention.AttentionConfig(block=256),
  )  # fmt: skip
  result = {
    "hardware": measuring.hardware(gpu),
    "versions": {"jax": jax.__version__, "torch": torch.__version__,
                 "diffusers": diffusers.__version__},
    "model": f"width {width}, depth {depth}", "dtype": dtype, "streams": {},
  }  # fmt: skip
  for name, sizes in STREAMS.items():
    mine = ours(sizes, config, dtype)
    other = theirs(sizes, config, device, compiled=device == "cuda")
    result["streams"][name] = measuring.compare(
      {"ours": mine, "diffusers": other}, _ROUNDS.value, warm_up=2
    )
    print(name, result["streams"][name], flush=True)
  measuring.write(f"step_vs_diffusers_{device}", _OUT.value, result)


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for step_vs_diffusers_DEVICE.json.")
  _WIDTH = flags.DEFINE_integer("width", 384, "Of both models; heads are 64 wide.")
  _DEPTH = flags.DEFINE_integer("depth", 6, "Blocks of both models.")
  _ROUNDS = flags.DEFINE_integer("rounds", 5, "Of both, in turn.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
