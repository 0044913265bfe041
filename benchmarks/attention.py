"""Packed attention on live blocks against the masked square, on a CPU.

  python -m benchmarks.attention --out=benchmarks/results

Rows of 16 ragged clips, the longest up to 16 times the shortest, in the same proportions
at every length of row. Two things about each:

  counted  positions in live blocks over the ideal, sum of s^2 for clips of s tokens, and
           the same of the whole square; the blocks are those of every kernel
  timed    the loops over live blocks (nn/flash_loops.py) and the reference that masks
           the whole square, in turn in one process, forward alone and with gradients

What blocks are worth on a TPU is not to be read off the times of a CPU; the counts are
the same anywhere.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # what the loops are for

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import measuring
from sora_jax import cli
from sora_jax.nn import attention, live_blocks
from sora_jax.training import metrics

CLIPS, SPREAD = 16, 16  # clips of a row; the longest over the shortest, at most
HEADS, HEAD_DIM = 4, 64
LENGTHS = (1024, 2048, 4096, 8192)  # timed and counted
COUNTED = (*LENGTHS, 16_384, 32_768)
BLOCKS, TIMED = (128, 256, 512), 256  # tokens of a block; where time is taken
PASSES = ("forward", "forward and backward")


def clips(length: int) -> np.ndarray:
  """Lengths of the clips that fill a row: log-uniform, and the same every time."""
  weights = np.exp(np.random.default_rng(0).uniform(0, np.log(SPREAD), CLIPS))
  ends = np.round(np.cumsum(weights) / weights.sum() * length).astype(int)
  return np.diff(ends, prepend=0)


def segments(length: int) -> jax.Array:
  """Segment ids [1, length] of a row."""
  return jnp.repeat(jnp.arange(1, CLIPS + 1), clips(length))[None]


def counts(length: int) -> dict:
  """Live positions over the ideal for every size of block, and those of the square."""
  ideal, ids = np.sum(clips(length) ** 2.0), segments(length)
  live = {
    block: int(live_blocks.live(ids, ids, block, block).sum()) * block**2
    for block in BLOCKS
  }
  return {
    "live_over_ideal": {block: round(n / ideal, 3) for block, n in live.items()},
    "square_over_ideal": round(length**2 / ideal, 3),
  }


def times(length: int, rounds: int) -> dict[str, dict[str, float]]:
  """Seconds of both, forward and with gradients, and the square's over the loops'."""
  keys = jax.random.split(jax.random.key(0), 3)
  qkv = [jax.random.normal(key, (1, length, HEADS, HEAD_DIM)) for key in keys]
  ids, found = segments(length), {}
  for name in PASSES:
    calls = {}
    for kernel in ("loops", "reference"):
      config = attention.AttentionConfig(kernel=kernel, block=TIMED)
      calls[kernel] = functools.partial(_function(config, name), qkv, ids)
    found[name] = measuring.compare(calls, rounds)
  return found


def _function(config: attention.AttentionConfig, name: str):
  """The compiled call of (q, k, v), segments."""

  def forward(qkv: list[jax.Array], ids: jax.Array) -> jax.Array:
    return attention.attention(*qkv, ids, ids, config, cross=False)

  def value(qkv: list[jax.Array], ids: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(forward(qkv, ids)))

  return jax.jit(forward if name == PASSES[0] else jax.value_and_grad(value))


def main() -> None:
  rows = {length: counts(length) for length in COUNTED}
  with metrics.progress(len(LENGTHS), desc="measure", unit="row") as bar:
    for length in LENGTHS:
      rows[length] |= times(length, _ROUNDS.value)
      bar.update()
  result = {
    "hardware": measuring.hardware(), "jax": jax.__version__, "dtype": "float32",
    "heads": f"{HEADS} x {HEAD_DIM}", "clips": CLIPS, "timed_block": TIMED,
    "rows": rows,
  }  # fmt: skip
  measuring.write("attention", _OUT.value, result)
  draw(rows, _OUT.value)
  print(table(rows))


def table(rows: dict[int, dict]) -> str:
  """One line a row."""
  blocks = "".join(f"{f'live/{block}':>10}" for block in BLOCKS)
  lines = [f"{'tokens':>7}{blocks}{'square':>8}   loops, square, ratio"]
  for length, row in rows.items():
    live = "".join(f"{row['live_over_ideal'][block]:>10.2f}" for block in BLOCKS)
    line = f"{length:>7,}{live}{row['square_over_ideal']:>8.2f}"
    for name in PASSES:
      if name in row:
        t = row[name]
        line += f"   {name} {t['loops_s']:.3f} s, {t['reference_s']:.3f} s, "
        line += f"{t['ratio']:.1f}x"
    lines.append(line)
  return "\n".join(lines)


def draw(rows: dict[int, dict], folder: str) -> None:
  """Times on the left, live positions over the ideal on the right."""
  colors = dict(zip((*BLOCKS, "square"), measuring.COLORS))
  dots = {"marker": "o", "markersize": 4}
  with measuring.plot("attention", folder, (9.0, 3.8), panels=2) as (left, right):
    for name, style in zip(PASSES, ("--", "-")):
      for kernel, label, color in (
        ("reference", "masked square", colors["square"]),
        ("loops", f"live blocks of {TIMED}", colors[TIMED]),
      ):
        seconds = [rows[length][name][f"{kernel}_s"] for length in LENGTHS]
        label = f"{label}, {name}"
        left.loglog(LENGTHS, seconds, style, color=color, label=label, **dots)
    left.set_title("Time on a CPU", fontsize=10)
    left.set_ylim(top=20 * left.get_ylim()[1])  # room for the legend
    left.set_ylabel("seconds")
    square = [rows[length]["square_over_ideal"] for length in COUNTED]
    label = "masked square"
    right.semilogx(COUNTED, square, color=colors["square"], label=label, **dots)
    for block in BLOCKS:
      live = [rows[length]["live_over_ideal"][block] for length in COUNTED]
      label = f"live blocks of {block}"
      right.semilogx(COUNTED, live, color=colors[block], label=label, **dots)
    right.set_title("Work, anywhere", fontsize=10)
    right.set_ylabel("positions computed / sum of s²")
    right.set_ylim(bottom=0)
    right.axhline(1, color="black", linewidth=0.8, linestyle=":", label="ideal")
    for axes, ticks in ((left, LENGTHS), (right, COUNTED)):
      axes.set_xlabel("tokens of a row with 16 ragged clips")
      axes.set_xticks(ticks, [f"{n // 1024}k" for n in ticks])
      axes.minorticks_off()
      axes.grid(alpha=0.2)
      axes.legend(fontsize=8, frameon=False, handlelength=3.5)


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for attention.json and .png.")
  _ROUNDS = flags.DEFINE_integer("rounds", 3, "Of both, in turn.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
