"""What partitioning the train step costs: 1 to 8 fake devices on one machine's CPU.

  python -m benchmarks.devices --out=benchmarks/results

The same small denoiser and the same global batch on meshes of 1, 2, 4 and 8 devices: with
everything on the fsdp axis, and with two devices along the context axis. On a CPU of a
few cores this measures the overhead of partitioning, not speed-up: all fake devices share
the cores, and the work is the same for all meshes. What a step takes longer than on one
device are smaller products, collectives, and devices that wait for one another; where it
takes less, one device alone does not keep all cores busy.

Beside the times stands by how much the losses differ from those of one device, step by
step: the same step, summed in another order. Every mesh has a process of its own with as
many fake devices as it needs, and they take their steps in turn.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # whose devices can be faked

import statistics
import time
from multiprocessing.connection import Connection

import jax
import numpy as np
from absl import flags

from benchmarks import measuring, mixed_stream
from sora_jax import api, cli, distributed, sharding
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training import metrics, optimizer, state, step

ROWS, LENGTH, CLIPS = 8, 512, 6  # of the global batch; clips of a row
MESHES = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (2, 2), (4, 2))  # fsdp, context


def batch() -> api.PackedTokens:
  """Full rows of ragged clips, the same every time."""
  rng, rows = np.random.default_rng(0), []
  for _ in range(ROWS):
    cuts = np.sort(rng.choice(np.arange(16, LENGTH, 16), CLIPS - 1, replace=False))
    rows.append(np.diff(cuts, prepend=0, append=LENGTH).tolist())
  return mixed_stream.lay_out(rows, LENGTH, ROWS, CLIPS)


def work(parent: Connection, fsdp: int, context: int) -> None:
  """In a process of its own: takes a step when it is asked; tells its seconds and loss."""
  mesh = sharding.MeshConfig(fsdp=fsdp, context=context).make()
  objective = mixed_stream.denoiser(width=128, depth=2)
  skeleton = Skeleton.of(objective.make)
  rule = optimizer.AdamW(lr=optimizer.Cosine(peak=1e-3)).make(1000)
  with jax.set_mesh(mesh):
    train_state, layout = state.init_sharded(skeleton, rule, 0, mesh, None)
    train_step = jax.jit(
      step.make_train_step(objective, skeleton, rule, seed=0, ema_decay=None),
      donate_argnums=0, in_shardings=(layout, sharding.batch(mesh)),
      out_shardings=(layout, None),
    )  # fmt: skip
    rows = distributed.to_global(mesh, batch())
    for _ in measuring.requests(parent):
      started = time.perf_counter()
      train_state, values = jax.block_until_ready(train_step(train_state, rows))
      parent.send((time.perf_counter() - started, float(values["loss"])))


def measure(rounds: int) -> list[dict]:
  """A row for every mesh."""
  workers = {}
  for fsdp, context in MESHES:
    flag = f"--xla_force_host_platform_device_count={fsdp * context}"
    workers[fsdp, context] = measuring.child(work, fsdp, context, XLA_FLAGS=flag)
  steps: dict[tuple[int, int], list[tuple[float, float]]] = {m: [] for m in MESHES}
  for worker in workers.values():
    worker.send("step")  # all compile at once; this step is not timed
  with metrics.progress((1 + rounds) * len(MESHES), desc="steps") as bar:
    for number in range(1 + rounds):
      for mesh, worker in workers.items():
        if number:
          worker.send("step")
        steps[mesh].append(worker.recv())
        bar.update()
  for worker in workers.values():
    worker.close()
  alone, found = steps[MESHES[0]], []
  for (fsdp, context), own in steps.items():
    ratios = [mine[0] / one[0] for mine, one in zip(own[1:], alone[1:])]
    found.append({
      "devices": fsdp * context, "fsdp": fsdp, "context": context,
      "step_s": round(statistics.median(seconds for seconds, _ in own[1:]), 4),
      "over_one_device": round(statistics.median(ratios), 3),
      "over_one_device_range": [round(min(ratios), 3), round(max(ratios), 3)],
      "loss_difference": max(abs(mine[1] - one[1]) for mine, one in zip(own, alone)),
    })  # fmt: skip
  return found


def main() -> None:
  found = measure(_ROUNDS.value)
  result = {
    "hardware": measuring.hardware(), "jax": jax.__version__, "dtype": "float32",
    "batch": f"{ROWS} rows of {LENGTH} tokens", "steps": 1 + _ROUNDS.value,
    "meshes": found,
  }  # fmt: skip
  measuring.write("devices", _OUT.value, result)
  draw(found, _OUT.value)
  print("devices  fsdp  context   step, s  over one device  |loss difference|")
  for row in found:
    print(
      f"{row['devices']:>7}{row['fsdp']:>6}{row['context']:>9}{row['step_s']:>10.3f}"
      f"{row['over_one_device']:>17.2f}{row['loss_difference']:>19.1e}"
    )


def draw(found: list[dict], folder: str) -> None:
  """Bars of the step's time over that of one device, differences of the loss beside."""
  labels = [
    f"fsdp {row['fsdp']}" + (f"\ncontext {row['context']}" if row["context"] > 1 else "")
    for row in found
  ]
  colors = [measuring.COLORS[3 if r["devices"] == 1 else r["context"] - 1] for r in found]
  with measuring.plot("devices", folder, (10.5, 3.6), panels=2) as (left, right):
    ratios = [row["over_one_device"] for row in found]
    low, high = zip(*(row["over_one_device_range"] for row in found))
    errors = np.maximum([np.subtract(ratios, low), np.subtract(high, ratios)], 0)
    left.bar(labels, ratios, color=colors, width=0.65, yerr=errors, capsize=3)
    for i, (ratio, top) in enumerate(zip(ratios, high)):
      left.text(i, top + 0.04 * max(high), f"{ratio:.2f}", ha="center", fontsize=9)
    left.set_ylim(0, 1.15 * max(high))
    left.set_ylabel("step time / that of one device")
    left.set_title("Same work on the same cores: median and range", fontsize=10)
    right.bar(labels, [row["loss_difference"] for row in found], color=colors, width=0.65)
    right.set_ylabel("largest |loss − loss of one device|")
    right.set_title("Losses, float32", fontsize=10)
    for axes in (left, right):
      axes.tick_params("x", labelsize=8)
      axes.set_xlabel("mesh of fsdp × context fake devices")


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for devices.json and .png.")
  _ROUNDS = flags.DEFINE_integer("rounds", 5, "Steps on every mesh, in turn.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
