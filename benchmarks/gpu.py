"""What one GPU shows: the attention kernel, the training step and the autoencoder.

  make bench-gpu       (makes .venv-gpu, which has torch and JAX for CUDA)
  .venv-gpu/bin/python -m benchmarks.gpu --out=benchmarks/results/gpu.json

  1. The kernel of nn/flash_gpu.py against the reference, values and gradients.
  2. A training step at the dims of XL and 1.3b against diffusers' WanTransformer3DModel,
     eager and compiled, whose attention is torch's own (flash in bfloat16).
  3. Encoding and decoding with Wan's autoencoder against diffusers'.
  4. The kernel's time beside dense attention by XLA and cuDNN (gpu_attention.py).

Ratios are the other's time over ours, from calls in turn. What does not run, for want of
memory or a library, has its error for a row. MFU is of useful FLOPs: no padding, nothing
twice. For one H200; on less memory the larger rows end in errors. --tiny goes through
all of it anywhere, interpreted, and its numbers say nothing.
"""

import dataclasses
import functools
import importlib.metadata
import os
import pathlib
import platform
import statistics
import sys
from typing import Any

# Before JAX loads: torch lives on the same chip.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import gpu_attention, measuring, step_vs_diffusers
from benchmarks.gpu_attention import Row, attempt
from configs import t2v
from sora_jax import chips, cli
from sora_jax.models import dit
from sora_jax.nn import attention

_OUT = flags.DEFINE_string("out", None, "The JSON to write.")
_TINY = flags.DEFINE_bool("tiny", False, "Tiny dims, interpreted: a test of this script.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Of everything that is timed.")

# Latents (t, h, w) of 4,096 tokens in all: both models' steps have to fit at once.
STREAMS = {
  "2 clips of 2,048 tokens": [(8, 32, 32)] * 2,
  "16 clips of 256 tokens": [(1, 32, 32)] * 16,
  "mixed: 2,048 to 64 tokens": [
    (8, 32, 32), (4, 32, 32), (2, 32, 32), (1, 32, 32), (1, 16, 32), (1, 16, 16),
    (1, 16, 16)],
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """How large everything is."""

  kernel: str = "gpu"
  dtype: str = "bfloat16"
  checked: tuple[int, ...] = (72, 128)  # head dims
  tokens: tuple[int, ...] = (8192, 32_768)
  heads: int = 12
  dim: int = 128
  repeats: int = 10  # calls at once: one is shorter than its launch from Python
  models: tuple[str, ...] = ("XL", "1.3b")
  streams: dict[str, list[tuple[int, int, int]]]
  clip: tuple[int, int, int] = (480, 832, 17)  # height, width, frames
  positions: int = 16_384

  def model(self, name: str) -> dit.DiTConfig:
    kernel = attention.AttentionConfig(kernel=self.kernel)
    if self.kernel == "gpu":
      return dit.DiTConfig(attention=kernel, **t2v.SIZES[name])
    return dit.DiTConfig(
      width=48, depth=1, num_heads=2, mlp_dim=96, text_dim=32, attention=kernel
    )


FULL = Setting(streams=STREAMS)
TINY = Setting(
  kernel="interpret_gpu", dtype="float32", checked=(24,), tokens=(192,), heads=2, dim=24,
  repeats=2, models=("XL",), clip=(16, 16, 5), positions=64,
  streams={"mixed": [(1, 4, 8), (2, 4, 4)]},
)  # fmt: skip


# ---- What is measured ---------------------------------------------------------------


def kernel_against_reference(setting: Setting) -> list[Row]:
  return gpu_attention.against_reference(
    setting.kernel, setting.checked, setting.heads, setting.tokens[0] // 4
  )


def attention_times(setting: Setting) -> list[Row]:
  return gpu_attention.times(
    setting.kernel, setting.tokens, setting.heads, setting.dim, setting.dtype,
    rounds=_ROUNDS.value, repeats=setting.repeats,
  )  # fmt: skip


def steps(setting: Setting) -> list[Row]:
  """Seconds of a training step and MFU, beside diffusers' eager and compiled."""
  device = "cuda" if setting.kernel == "gpu" else "cpu"
  chip = chips.of_kind(jax.devices()[0].device_kind)

  def measure(config: dit.DiTConfig, sizes: list[tuple], compiled: bool | None) -> Row:
    lengths = jnp.asarray([step_vs_diffusers.tokens_of(size) for size in sizes])
    text = jnp.full_like(lengths, step_vs_diffusers.TEXT_TOKENS)
    useful = 3 * float(config.forward_flops(lengths, text))
    ours = step_vs_diffusers.ours(sizes, config, setting.dtype)
    if compiled is None:
      ours(), ours()
      alone = [measuring.seconds(ours) for _ in range(_ROUNDS.value)]
      times = {"ours_s": round(statistics.median(alone), 4)}
    else:
      other = step_vs_diffusers.theirs(sizes, config, device, compiled=compiled)
      calls = {"ours": ours, "diffusers": other}
      times = measuring.compare(calls, _ROUNDS.value, warm_up=3)
    if chip is None:
      return times
    mfu = {
      name.replace("_s", "_mfu"): round(useful / taken / chip.flops, 3)
      for name, taken in times.items() if name.endswith("_s")
    }  # fmt: skip
    return times | mfu

  return [
    attempt({"model": name, "clips": stream, "diffusers": against},
            functools.partial(measure, setting.model(name), sizes, compiled))
    for name in setting.models
    for stream, sizes in setting.streams.items()
    for against, compiled in (("none", None), ("eager", False), ("compiled", True))
  ]  # fmt: skip


def autoencoder(setting: Setting) -> list[Row]:
  """Seconds of encoding and decoding a clip in float32."""

  def measure() -> dict[str, Any]:
    from benchmarks import vae_speed  # it needs torch

    return vae_speed.measure(setting.clip, setting.positions, _ROUNDS.value)

  found = attempt({}, measure)
  if "error" in found:
    return [found]
  size = "{2} frames of {0}x{1}".format(*setting.clip)
  return [{"clip": size, "what": what, **found[what]} for what in ("encode", "decode")]


SECTIONS = {
  "kernel_against_reference": kernel_against_reference, "step": steps,
  "autoencoder": autoencoder,
  # Last: JAX keeps the memory that dense attention took, and torch would lack it.
  "attention": attention_times,
}  # fmt: skip


# ---- The command --------------------------------------------------------------------


def versions() -> dict[str, str]:
  found = {"python": platform.python_version()}
  for name in ("jax", "torch", "diffusers"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = "not installed: nothing is compared with it"
  return found


def table(rows: list[Row]) -> str:
  """Columns of equal width; what a row lacks is a dash."""
  names = list(dict.fromkeys(name for row in rows for name in row))
  lines = [names] + [[str(row.get(name, "-")) for name in names] for row in rows]
  widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
  return "\n".join(
    "  ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in lines
  )


def main() -> None:
  if not _TINY.value and jax.default_backend() != "gpu":
    raise ValueError(
      f"benchmarks.gpu needs a GPU, and JAX sees {jax.default_backend()} devices only: "
      "`make bench-gpu` installs JAX for CUDA; --tiny tests the script without one"
    )
  setting = TINY if _TINY.value else FULL
  result: dict[str, Any] = {
    "hardware": measuring.hardware("" if _TINY.value else jax.devices()[0].device_kind),
    "versions": versions(),
  }
  if _TINY.value:
    result["tiny"] = "interpreted, at tiny dims: no measurement"
  out, tables = pathlib.Path(_OUT.value), []
  for name, section in SECTIONS.items():
    result[name] = section(setting)
    tables.append(f"{name}\n{table(result[name])}\n")
    # After each one: the next may take the process down with it.
    measuring.write(out.stem, str(out.parent), result)
  print("", *tables, sep="\n")
  if not all(row.get("equal") for row in result["kernel_against_reference"]):
    sys.exit("error: the kernel is not equal to the reference, see above")


if __name__ == "__main__":
  flags.mark_flag_as_required("out")
  cli.run(main)
