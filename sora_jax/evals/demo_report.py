"""What a demo found, gathered from its workdir: report.json, report.html, strip.png.

Used by: sora_jax/demo.py. Next: report.py (the page).
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
from typing import Any

import jax

from sora_jax.evals import report
from sora_jax.generation import video_files
from sora_jax.training import metrics

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")


def write(
  workdir: pathlib.Path, *, seconds: dict[str, float], commands: list[str]
) -> dict[str, Any]:
  """Writes the three files; returns the contents of report.json."""
  summary = gather(workdir, seconds)
  (workdir / "report.json").write_text(json.dumps(summary, indent=1))
  report.build(
    workdir / "report.html",
    report.Report(
      title="sora_jax: what one command learnt",
      summary=summary,
      curves={
        "autoencoder": metrics.read(workdir / "autoencoder"),
        "text-to-video": metrics.read(workdir / "text_to_video"),
      },
      pictures=[
        report.Picture(
          title="Patch n' pack",
          caption="Rows of one training batch. Every clip has its own color; it keeps "
          "its own size and length, and white is padding.",
          path=workdir / "packing" / "packing.png",
        ),
        report.Picture(
          title="The video compression network",
          caption="Held-out clips, each above its reconstruction.",
          path=workdir / "codec_check" / "reconstructions.png",
        ),
      ],
      samples=_samples(workdir),
      config_notes=[],
      commands=commands,
    ),
  )
  _draw_strip(workdir, _sample_rows(workdir))
  return summary


def gather(workdir: pathlib.Path, seconds: dict[str, float]) -> dict[str, Any]:
  """The numbers of a finished demo."""
  rows = metrics.read(workdir / "text_to_video")
  samples = _read(workdir / "samples" / "samples.jsonl")
  sizes = sorted({(s["height"], s["width"], s["frames"]) for s in samples})
  packing = json.loads((workdir / "packing" / "packing.json").read_text())
  summary: dict[str, Any] = {
    "stages": {**seconds, "total": round(sum(seconds.values()), 1)},
    "hardware": {
      "machine": platform.machine(),
      "cpu_cores": os.cpu_count(),
      "devices": [d.device_kind for d in jax.devices()],
    },
    "versions": {
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
    "autoencoder": json.loads((workdir / "codec_check" / "codec.json").read_text()),
    "packing": {
      **packing, "efficiency": statistics.fmean(r["packing_efficiency"] for r in rows)
    },
    "train": {
      "steps": rows[-1]["step"],
      "loss": rows[-1]["loss"],
      "useful_tokens_per_s": statistics.median(r["useful_tokens_per_s"] for r in rows),
      "seconds": seconds.get("train"),
    },
    "samples": {
      "count": len(samples),
      "sizes": [f"{h}x{w}, {t} frames" for h, w, t in sizes],
    },
  }  # fmt: skip
  checks = workdir / "checks.json"
  if checks.exists():
    groups = json.loads(checks.read_text())["groups"]
    summary["samples"] |= groups.get("seen", {})
    summary["samples"]["heldout"] = groups.get("heldout", {})
    summary["samples"]["two_objects"] = groups.get("two objects", {})
  return summary


def describe(summary: dict[str, Any]) -> str:
  """The result in a few lines of text."""
  samples = summary["samples"]
  lines = [
    f"autoencoder: {summary['autoencoder']['psnr_db']:.1f} dB on held-out clips",
    f"packing: {100 * summary['packing']['efficiency']:.1f} % of the rows is used",
    f"training: {summary['train']['steps']} steps at "
    f"{summary['train']['useful_tokens_per_s']:,.0f} useful tokens/s",
    f"samples: {samples['count']} videos of {len(samples['sizes'])} sizes",
  ]
  groups = {"seen": samples} | {
    name: samples[name] for name in ("heldout", "two_objects") if name in samples
  }
  for name, group in groups.items():
    if "all_accuracy" in group:
      parts = [
        f"{part} {100 * group[f'{part}_accuracy']:.0f}"
        for part in ("color", "shape", "motion", "all")
      ]
      lines.append(f"  {name} (n={group['n']}): {', '.join(parts)} %")
  return "\n".join(lines)


def _sample_rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """samples.jsonl, with the checker's verdicts where there are any."""
  checks = workdir / "checks.json"
  if checks.exists():
    return json.loads(checks.read_text())["samples"]
  return _read(workdir / "samples" / "samples.jsonl")


def _samples(workdir: pathlib.Path) -> list[report.Sample]:
  return [
    report.Sample(
      path=workdir / "samples" / row["file"], prompt=row["prompt"],
      frames=row["frames"], height=row["height"], width=row["width"],
      group=row.get("group", "yours"), verdict=row.get("verdict"),
    )
    for row in _sample_rows(workdir)
  ]  # fmt: skip


def _draw_strip(workdir: pathlib.Path, rows: list[dict[str, Any]]) -> None:
  """strip.png: frames of the first samples of each group, not of the best ones."""
  frames = video_files.read_frames(workdir / "samples" / "frames.npz")
  groups: dict[str, list[int]] = {}
  for i, row in enumerate(rows):
    groups.setdefault(row.get("group", "yours"), []).append(i)
  chosen = [i for members in groups.values() for i in members[:6]]
  names = {"heldout": ", never trained on"}
  labels = [rows[i]["prompt"] + names.get(rows[i].get("group"), "") for i in chosen]
  sheet = video_files.contact_sheet([frames[f"{i:04d}"] for i in chosen], labels)
  video_files.write_png(workdir / "strip.png", sheet)


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
  return [json.loads(line) for line in path.read_text().splitlines() if line]
