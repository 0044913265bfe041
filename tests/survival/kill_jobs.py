"""Kills ingestion and encoding with SIGKILL at random moments, and looks at the end.

  python tests/survival/kill_jobs.py --kills=20 --out=DIR

Each job is run once undisturbed; then it is killed `kills` times, each time somewhere
between its start and its usual end, and started again. What stands at the end must be,
byte for byte, what the undisturbed run made.
Used by: test_kill_jobs.py.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from sora_jax import sharding
from sora_jax.generation import video_files
from sora_jax.nn.skeleton import Skeleton
from sora_jax.objectives import autoencoder as objective_lib
from sora_jax.training import checkpoint, optimizer, state
from sora_jax.training import workdir as workdir_lib
from sora_jax.training.config import TrainConfig
from sora_jax.vae import bottlenecks, factorized

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def write_videos(folder: pathlib.Path, count: int) -> None:
  """Clips of moving blocks, each its own."""
  folder.mkdir(parents=True)
  for i in range(count):
    field = np.random.default_rng(i).integers(0, 256, (6, 24, 3)).astype(np.uint8)
    field = field.repeat(8, axis=0).repeat(8, axis=1)
    video = np.stack([field[:, 2 * t : 2 * t + 64] for t in range(17 + 4 * (i % 6))])
    video_files.write_mp4(folder / f"{i:03d}.mp4", video, 8)
    (folder / f"{i:03d}.txt").write_text(f"clip {i}")


def write_codec(workdir: pathlib.Path) -> None:
  """An untrained codec; what it makes of clips does not matter here."""
  network = factorized.FactorizedConfig(bottleneck=bottlenecks.Kl(channels=8))
  config = TrainConfig(
    objective=objective_lib.AutoencoderObjective(model=network), data=None,
    optimizer=optimizer.AdamW(lr=optimizer.Cosine(peak=1e-3)),
    mesh=sharding.MeshConfig(), num_steps=1,
  )  # fmt: skip
  workdir_lib.claim(workdir, config)
  skeleton = Skeleton.of(config.objective.make)
  untrained, _ = state.init_sharded(
    skeleton, config.optimizer.make(1), 0, config.mesh.make()
  )
  saver = checkpoint.Checkpointer(workdir)
  saver.save_last(untrained, {}, step=1)
  saver.close()


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*")) if path.is_file()
  }  # fmt: skip


def run(command: list[str], seconds: float | None = None) -> bool:
  """Runs a command to its end, or kills it and all its children after `seconds`."""
  process = subprocess.Popen(
    [sys.executable, "-m", *command], cwd=ROOT, start_new_session=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  )  # fmt: skip
  try:
    output, _ = process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return False
  assert process.returncode == 0, output.decode()[-3000:]
  return True


def try_job(make_command, out: pathlib.Path, kills: int, seed: int) -> dict:
  """Undisturbed, then killed; raises AssertionError where the ends differ."""
  started = time.monotonic()
  run(make_command(out / "whole"))
  usual = time.monotonic() - started
  rng, killed, survived = random.Random(seed), 0, 0
  while killed < kills:
    if run(make_command(out / "killed"), seconds=rng.uniform(0.1, 1.0) * usual):
      survived += 1  # it was faster than usual: all over, to be killed again
      if killed + survived > 3 * kills:
        break
      shutil.rmtree(out / "killed")
    else:
      killed += 1
  run(make_command(out / "killed"))
  assert contents(out / "killed") == contents(out / "whole")
  return {"kills": killed, "ended_by_itself": survived, "usual_s": round(usual, 1)}


def try_all(out: pathlib.Path, *, kills: int, videos: int) -> dict[str, dict]:
  """The results of both jobs."""
  write_videos(out / "videos", videos)
  write_codec(out / "codec")
  jobs = "data_pipelines.jobs"
  results = {"ingest": try_job(
    lambda to: [f"{jobs}.ingest", f"--videos={out / 'videos'}", f"--out={to}"],
    out / "ingest", kills, seed=0,
  )}  # fmt: skip
  clips = out / "ingest" / "whole" / "folder_clips" / "1.0.0"
  results["encode"] = try_job(
    lambda to: [
      f"{jobs}.encode_latents", f"--clips={clips}", f"--codec={out / 'codec'}",
      f"--out={to}", "--clips_per_shard=4",
    ],
    out / "encode", kills, seed=1,
  )  # fmt: skip
  return results


def main(argv) -> None:
  del argv
  out = pathlib.Path(_OUT.value).absolute()
  results = try_all(out, kills=_KILLS.value, videos=_VIDEOS.value)
  print(json.dumps(results, indent=1))


if __name__ == "__main__":
  _KILLS = flags.DEFINE_integer("kills", 20, "Of each job.")
  _VIDEOS = flags.DEFINE_integer("videos", 60, "Files to ingest.")
  _OUT = flags.DEFINE_string("out", None, "A new folder.")
  flags.mark_flags_as_required(["out"])
  app.run(main)
