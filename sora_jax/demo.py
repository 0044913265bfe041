"""The whole path in one command: data, codec, latents, text-to-video model, samples.

  python -m sora_jax.demo --workdir=runs/demo                    (procedural clips)
  python -m sora_jax.demo --workdir=runs/mine --videos=FOLDER    (your own clips)

It runs the public commands one after another, each in its own process, and prints them:
what the demo does can be done by hand. Interrupted, it goes on where it stopped. At the
end WORKDIR/report.html shows what the model learnt and WORKDIR/report.json says it in
numbers. --minutes scales the number of training steps, which are fixed beforehand, so a
slow machine gets the same result later.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

from absl import flags

from sora_jax import cli
from sora_jax.evals import demo_report
from sora_jax.training import checkpoint

_WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Folder for everything.")
_VIDEOS = flags.DEFINE_string(
  "videos", None, "Folder of your own videos and images, captioned by manifest.jsonl "
  '({"file", "caption"} lines) or by a .txt beside each file.',
)  # fmt: skip
_MINUTES = flags.DEFINE_float(
  "minutes", 10.0, "Training steps, in minutes of two idle CPU cores.", lower_bound=0.01
)
_CLIPS = flags.DEFINE_integer("clips", 6000, "Clips to render.", lower_bound=64)
_SAMPLES = flags.DEFINE_integer(
  "samples", 96, "Sampled videos per group of prompts.", lower_bound=4
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = pathlib.Path(os.path.relpath(ROOT / "configs" / "demo.py"))

# Training steps per minute of --minutes; see configs/demo.py for what they reach.
AUTOENCODER_STEPS = 110
MODEL_STEPS = 240


@dataclasses.dataclass(frozen=True)
class Stage:
  """One command of the demo."""

  name: str
  module: str
  options: dict[str, object]

  @property
  def command(self) -> list[str]:
    flags_ = [f"--{name}={value}" for name, value in self.options.items()]
    return [sys.executable, "-m", self.module, *flags_]

  def __str__(self) -> str:
    return " \\\n    ".join(
      [f"python -m {self.module}"] + [f"--{n}={v}" for n, v in self.options.items()]
    )


  def is_complete(self) -> bool:
    """Whether a training that ended well has also done all of its steps."""
    if self.module != "sora_jax.train":
      return True
    newest = checkpoint.newest_step(self.options["workdir"])
    return newest >= self.options["config.num_steps"]


def stages(workdir: pathlib.Path) -> list[Stage]:
  """The commands, in order."""
  if _VIDEOS.value:
    arg, clips = "videos_", workdir / "clips" / "folder_clips" / "1.0.0"
    data = [
      Stage("ingest", "data_pipelines.jobs.ingest",
            {"videos": _VIDEOS.value, "out": workdir / "clips"}),
      Stage("prompts", "data_pipelines.jobs.write_prompts",
            {"clips": clips, "out": workdir / "prompts.jsonl"}),
    ]  # fmt: skip
  else:
    arg, clips = "", workdir / "clips" / "moving_shapes" / "1.0.0"
    held = max(64, _CLIPS.value // 25)
    data = [
      Stage("render", "data_pipelines.jobs.render_shapes",
            {"out": workdir / "clips", "num_train": _CLIPS.value,
             "num_test": held, "num_heldout": held}),
      Stage("prompts", "data_pipelines.jobs.write_prompts",
            {"per_group": _SAMPLES.value, "out": workdir / "prompts.jsonl"}),
    ]  # fmt: skip
  codec, model = workdir / "autoencoder", workdir / "text_to_video"
  latents = workdir / "latents" / "latents" / "1.0.0"
  samples = workdir / "samples"
  checks = [] if _VIDEOS.value else [
    Stage("check", "sora_jax.evaluate",
          {"samples": samples, "out": workdir / "checks.json"}),
  ]  # fmt: skip
  return data + [
    Stage("autoencoder", "sora_jax.train",
          {"config": f"{CONFIG}:{arg}vae", "workdir": codec,
           "config.data.path": clips,
           "config.num_steps": round(AUTOENCODER_STEPS * _MINUTES.value)}),
    Stage("check_autoencoder", "data_pipelines.jobs.check_codec",
          {"clips": clips, "codec": codec, "out": workdir / "codec_check"}),
    Stage("encode", "data_pipelines.jobs.encode_latents",
          {"clips": clips, "codec": codec, "out": workdir / "latents"}),
    Stage("packing", "data_pipelines.jobs.draw_packing",
          {"config": f"{CONFIG}:{arg}dit", "config.data.path": latents,
           "out": workdir / "packing"}),
    Stage("train", "sora_jax.train",
          {"config": f"{CONFIG}:{arg}dit", "workdir": model,
           "config.data.path": latents, "config.codec": codec,
           "config.num_steps": round(MODEL_STEPS * _MINUTES.value)}),
    Stage("sample", "sora_jax.sample",
          {"workdir": model, "prompts_file": workdir / "prompts.jsonl",
           "sampler": "heun", "steps": 16, "guidance_scale": 2.0, "out": samples,
           "lossless": True}),
    *checks,
  ]  # fmt: skip


class Progress:
  """WORKDIR/stages.json: which stages are done, with which command, in what time."""

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / "stages.json"
    self._rows = json.loads(self._path.read_text()) if self._path.exists() else {}

  def check(self, plan: list[Stage]) -> None:
    """Raises ValueError where the workdir was begun with other options."""
    commands = {stage.name: str(stage) for stage in plan}
    for name, row in self._rows.items():
      if row["command"] != commands.get(name):
        raise ValueError(
          f"{self._path.parent} was begun with other options; its stage {name} was\n  "
          f"{row['command']}\nChoose another --workdir, or give those options again."
        )

  def is_done(self, stage: Stage) -> bool:
    return self._rows.get(stage.name, {}).get("done", False)

  def record(self, stage: Stage, seconds: float, *, done: bool) -> None:
    row = self._rows.get(stage.name, {"seconds": 0.0, "done": False})
    before = 0.0 if row["done"] else row["seconds"]
    self._rows[stage.name] = {
      "command": str(stage), "seconds": round(before + seconds, 1), "done": done
    }  # fmt: skip
    self._path.write_text(json.dumps(self._rows, indent=1))

  def forget(self, later: list[Stage]) -> None:
    """What follows a stage that is run again must be run again."""
    for stage in later:
      self._rows.pop(stage.name, None)

  def seconds(self) -> dict[str, float]:
    return {name: row["seconds"] for name, row in self._rows.items()}


def main() -> None:
  workdir = pathlib.Path(_WORKDIR.value)
  workdir.mkdir(parents=True, exist_ok=True)
  plan, progress = stages(workdir), Progress(workdir)
  progress.check(plan)
  for i, stage in enumerate(plan):
    if progress.is_done(stage):
      print(f"[{i + 1}/{len(plan)}] {stage.name}: done before")
      continue
    print(f"[{i + 1}/{len(plan)}] {stage.name}\n  {stage}", flush=True)
    progress.forget(plan[i + 1 :])
    start = time.monotonic()
    try:
      code = subprocess.run(stage.command, check=False).returncode
    except KeyboardInterrupt:
      code = 130
    if code == 0 and not stage.is_complete():
      code = 143  # ended in good order by SIGTERM, before it was done
    progress.record(stage, time.monotonic() - start, done=code == 0)
    if code:
      print(f"stage {stage.name} ended with {code}; the same command goes on from here",
            file=sys.stderr)  # fmt: skip
      sys.exit(code)
  summary = demo_report.write(
    workdir, seconds=progress.seconds(), commands=[str(stage) for stage in plan]
  )
  print(demo_report.describe(summary))
  print(f"report: {workdir / 'report.html'}")


if __name__ == "__main__":
  cli.run(main)
