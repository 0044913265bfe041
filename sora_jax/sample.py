"""Generates videos from prompts with a trained run.

  python -m sora_jax.sample --workdir=W --prompt="a red circle moves left" \\
      --size=32x32 --frames=9 --out=DIR
  python -m sora_jax.sample --workdir=W --prompts_file=prompts.jsonl --out=DIR

A prompts file has one prompt a line, or one JSON object a line with "prompt" and, where
they differ from the flags, "size" ("HxW"), "frames" and "seed"; a "group" is passed on.
Prompts of different sizes are packed into the same rows. Out: an mp4 (or png) each,
contact_sheet.png and samples.jsonl.
"""

import json
import pathlib

import numpy as np
from absl import flags

from sora_jax import cli, distributed, sharding
from sora_jax.diffusion import samplers
from sora_jax.generation import canvas, generator, prompts, video_files
from sora_jax.training import metrics

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a text-to-video run.")
_OUT = flags.DEFINE_string("out", None, "Folder for the videos.")
_PROMPT = flags.DEFINE_multi_string("prompt", [], "What to make; may be repeated.")
_PROMPTS_FILE = flags.DEFINE_string("prompts_file", None, "A prompt or JSON per line.")
_SIZE = flags.DEFINE_string("size", "32x32", "HEIGHTxWIDTH in pixels.")
_FRAMES = flags.DEFINE_integer("frames", 9, "Frames; 1 makes an image.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the first prompt; each next one adds 1.")
_FPS = flags.DEFINE_float("fps", 8.0, "Of the files that are written.", 0.1, 1000)
_SAMPLER = flags.DEFINE_enum(
  "sampler", "euler", sorted(samplers.SAMPLERS),
  "Solver: euler; unipc (Wan's) or dpm++, of higher order for the same cost; heun, at "
  "twice the cost of a step; flow_match_euler, at the times of diffusers' scheduler.",
)  # fmt: skip
_STEPS = flags.DEFINE_integer("steps", 20, "Of the sampler.", lower_bound=1)
_GUIDANCE = flags.DEFINE_float("guidance_scale", 3.0, "Classifier-free; 1 is none.")
_NEGATIVE = flags.DEFINE_string(
  "negative_prompt", None, "What guidance leads away from; the dropped caption if unset."
)
_LOW_NOISE = flags.DEFINE_string(
  "low_noise_workdir", None, "The expert for the noise levels below the workdir's."
)
_LOW_NOISE_GUIDANCE = flags.DEFINE_float(
  "low_noise_guidance_scale", None, "Of that expert, if it is another."
)
_MESH = flags.DEFINE_string(
  "mesh", "", "AXIS=SIZE,... of the devices that share model and rows; one if empty."
)
_EMA = flags.DEFINE_bool("ema", True, "Use the moving average of the parameters.")
_CODEC = flags.DEFINE_string("codec", None, "Workdir of the codec, if it has moved.")
_TEXT_ENCODER = flags.DEFINE_string(
  "text_encoder", None, "Folder of the encoder that embedded the training captions."
)
_UPSCALE = flags.DEFINE_integer(
  "upscale", 0, "Whole number of screen pixels per pixel; 0 chooses.", lower_bound=0
)
_LOSSLESS = flags.DEFINE_bool("lossless", False, "Also write every frame, frames.npz.")


def main() -> None:
  lines = _lines()
  requests = [
    prompts.request(
      line, size=_SIZE.value, frames=_FRAMES.value, seed=_SEED.value + number
    )
    for number, line in enumerate(lines)
  ]
  distributed.initialize()
  model = generator.Generator(
    _WORKDIR.value, codec=_CODEC.value, ema=_EMA.value, text_encoder=_TEXT_ENCODER.value,
    low_noise=_LOW_NOISE.value, mesh=_mesh(),
  )
  requests = [canvas.round_to_grid(request, model.grid) for request in requests]
  with metrics.progress(0, desc="sample", unit="row") as bar:

    def progress(done: int, total: int) -> None:
      bar.total = total
      bar.update(done)

    latents = model.generate_latents(
      requests, sampler=samplers.SAMPLERS[_SAMPLER.value](num_steps=_STEPS.value),
      guidance_scale=_guidance(), negative_prompt=_NEGATIVE.value, progress=progress,
    )  # fmt: skip
  if not distributed.is_primary():
    return
  videos = model.codec.decode(latents)
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  groups = [{"group": line["group"]} if "group" in line else {} for line in lines]
  write(out, requests, groups, videos)
  print(f"{len(videos)} videos of checkpoint {model.step} in {out}")


def _mesh() -> sharding.MeshConfig | None:
  """That of --mesh; several processes share the model in any case."""
  if not _MESH.value and distributed.is_alone():
    return None
  return sharding.MeshConfig(**sharding.parse_mesh(_MESH.value))


def _guidance() -> tuple[float, float]:
  low = _LOW_NOISE_GUIDANCE.value
  return _GUIDANCE.value, _GUIDANCE.value if low is None else low


def write(
  out: pathlib.Path, requests: list[canvas.Request], groups: list[dict], videos: list
) -> None:
  """The files of each sample, the contact sheet, samples.jsonl, and frames.npz."""
  rows = []
  for i, (request, group, video) in enumerate(zip(requests, groups, videos)):
    upscale = _UPSCALE.value or max(1, 256 // max(video.shape[1:3]))
    path = video_files.write_video_or_image(
      out / f"{i:04d}_{prompts.slug(request.prompt)}", video, _FPS.value, upscale
    )
    rows.append({
      "file": path.name, "prompt": request.prompt, "frames": request.frames,
      "height": request.height, "width": request.width, "seed": request.seed, **group,
    })  # fmt: skip
  labels = [f"{r.prompt}  {r.frames}x{r.height}x{r.width}" for r in requests]
  video_files.write_png(
    out / "contact_sheet.png", video_files.contact_sheet(videos[:64], labels[:64])
  )
  lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  (out / "samples.jsonl").write_text(lines, encoding="utf-8")
  if _LOSSLESS.value:
    np.savez_compressed(
      out / "frames.npz", **{f"{i:04d}": v for i, v in enumerate(videos)}
    )


def _lines() -> list[dict]:
  lines = [{"prompt": prompt} for prompt in _PROMPT.value]
  if _PROMPTS_FILE.value:
    lines += prompts.read(_PROMPTS_FILE.value)
  if not lines:
    raise ValueError("nothing to make: give --prompt or a --prompts_file with prompts")
  return lines


if __name__ == "__main__":
  flags.mark_flags_as_required(["workdir", "out"])
  cli.run(main)
