"""How well a codec keeps clips that it was not trained on.

  python -m data_pipelines.jobs.check_codec --clips=DATASET --codec=WORKDIR --out=DIR

Writes DIR/codec.json (PSNR, SSIM and flicker over the split; in the world of moving
shapes also how often the checker reads rendered and reconstructed clips right: its
ceiling for samples) and DIR/reconstructions.png (clips above their reconstructions).
"""

import json
import pathlib

import numpy as np
from absl import flags

from data_pipelines import rows
from sora_jax import cli
from sora_jax.evals import reconstruction, shapes_checker
from sora_jax.generation import codec as codec_lib
from sora_jax.generation import video_files


def check(records: list[dict], codec: codec_lib.Codec) -> tuple[dict, list[np.ndarray]]:
  """(results, reconstructions) of the records of a clips dataset."""
  videos = [record["video"] for record in records]
  copies = codec.decode(codec.encode(videos))
  pairs = list(zip(videos, copies))
  result = {
    "clips": len(videos),
    **{
      name: float(np.mean([measure(*pair) for pair in pairs]))
      for name, measure in reconstruction.MEASURES.items()
    },
  }
  if "truth" in records[0]:
    # Only what a prompt can ask for: clips that move, with objects kept apart.
    chosen = [i for i, r in enumerate(records) if _is_like_a_prompt(r)]
    for name, clips in (("truth", videos), ("reconstructions", copies)):
      verdicts = [
        shapes_checker.check(clips[i], records[i]["caption"].decode()) for i in chosen
      ]
      result[f"checker_on_{name}"] = shapes_checker.summarize(verdicts)
  return result, copies


def _is_like_a_prompt(record: dict) -> bool:
  return len(record["video"]) > 1 and len(record["truth"]["color"]) == 1


def draw(records: list[dict], copies: list[np.ndarray], path: pathlib.Path) -> None:
  """Twelve clips, each above its reconstruction."""
  # Large before small, videos before images: what can go wrong is seen there.
  order = sorted(range(len(records)), key=lambda i: -records[i]["video"].size)[:12]
  videos, labels = [], []
  for i in order:
    caption = records[i]["caption"].decode()
    videos += [records[i]["video"], copies[i]]
    psnr_db = reconstruction.psnr_db(videos[-2], videos[-1])
    labels += [caption, f"reconstructed, {psnr_db:.1f} dB"]
  video_files.write_png(path, video_files.contact_sheet(videos, labels))


def main() -> None:
  source = rows.open_source(_CLIPS.value, _SPLIT.value)
  records = [source[i] for i in range(min(len(source), _MOST.value))]
  result, copies = check(records, codec_lib.Codec(_CODEC.value))
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  (out / "codec.json").write_text(json.dumps(result, indent=1))
  draw(records, copies, out / "reconstructions.png")
  print(f"PSNR on {result['clips']} held-out clips: {result['psnr_db']:.2f} dB")


if __name__ == "__main__":
  _CLIPS = flags.DEFINE_string("clips", None, "Versioned folder of a clips dataset.")
  _CODEC = flags.DEFINE_string("codec", None, "Workdir of a trained autoencoder.")
  _SPLIT = flags.DEFINE_string("split", "test", "Which clips.")
  _MOST = flags.DEFINE_integer("most", 512, "Clips at the most.", lower_bound=1)
  _OUT = flags.DEFINE_string("out", None, "Folder for the results.")
  flags.mark_flags_as_required(["clips", "codec", "out"])
  cli.run(main)
