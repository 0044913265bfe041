"""The contact sheet of an ingestion: what was kept, and what was dropped and why.

Used by: jobs/ingest.py.
"""

import collections
import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sora_jax.evals import html_page
from sora_jax.evals.html_page import Markup, tag

_SHOWN = 60  # clips of a kind, evenly over all of them
_THUMBNAIL = 160  # pixels, of the longer side
_MEASURES = ("brightness", "change", "motion", "text")

Row = Mapping[str, Any]


def write(
  path: pathlib.Path, rows: Sequence[Row], clips: Sequence[Row],
  load: Callable[[Row], np.ndarray],
) -> None:  # fmt: skip
  """`rows` of files, `clips` of all of them; `load` gives a clip's frames."""
  kept = [clip for clip in clips if not clip["reason"]]
  groups = collections.defaultdict(list)
  for clip in clips:
    if clip["reason"]:
      groups[clip["reason"]].append(clip)
  sections = [_gallery("kept", kept, load)]
  for reason, dropped in sorted(groups.items()):
    sections.append(_gallery(f"dropped: {reason.replace('_', ' ')}", dropped, load))
  html_page.write(
    path, "Ingestion",
    [_header(rows, clips, kept), *sections, _skipped(rows), _warned(rows)],
  )  # fmt: skip


def _header(rows: Sequence[Row], clips: Sequence[Row], kept: Sequence[Row]) -> Markup:
  seconds = sum(clip["frames"] / clip["fps"] for clip in kept)
  tiles = {
    "files": len(rows),
    "files kept": sum(row["status"] == "kept" for row in rows),
    "clips kept": f"{len(kept)} of {len(clips)}",
    "of video kept": f"{seconds:,.0f} s",
  }
  items = [tag("li", tag("b", str(value)), name) for name, value in tiles.items()]
  return tag(
    "header", tag("h1", "What became of every file"),
    tag("ul", *items, class_="tiles"),
  )  # fmt: skip


def _gallery(
  title: str, clips: Sequence[Row], load: Callable[[Row], np.ndarray]
) -> Markup:
  count = min(_SHOWN, len(clips))
  chosen = [clips[i * len(clips) // count] for i in range(count)]
  cards = [_card(clip, load(clip)) for clip in chosen]
  more = f"{count} of {len(clips)} clips" if count < len(clips) else f"{count} clips"
  if not cards:
    return Markup()
  gallery = tag("div", *cards, class_="gallery strips")
  return html_page.section(title, tag("p", more, class_="note"), gallery)


def _card(clip: Row, frames: np.ndarray) -> Markup:
  values = "  ".join(f"{name} {clip[name]:.3g}" for name in _MEASURES)
  height, width = clip["size"]
  about = f"{clip['frames']} frames of {width}x{height}, from {clip['start']:.1f} s"
  picture = tag("img", src=_thumbnail(frames), alt=clip["clip"])
  return tag(
    "div", tag("div", picture, class_="frame"), tag("p", clip["caption"][:90]),
    tag("small", clip["clip"]), tag("small", about), tag("small", values),
    class_="card",
  )  # fmt: skip


def _thumbnail(frames: np.ndarray) -> str:
  """First, middle and last frame side by side; an image alone."""
  chosen = [frames[0], frames[len(frames) // 2], frames[-1]]
  picture = Image.fromarray(
    frames[0] if len(frames) == 1 else np.concatenate(chosen, axis=1)
  )
  picture.thumbnail((3 * _THUMBNAIL, _THUMBNAIL))
  content = io.BytesIO()
  picture.save(content, "PNG")
  return html_page.data_uri(content.getvalue(), ".png")


def _table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> Markup:
  if not lines:
    return Markup()
  body = [tag("tr", *(tag("td", cell) for cell in line)) for line in lines]
  top = tag("thead", tag("tr", *(tag("th", cell) for cell in head)))
  table = tag("table", top, tag("tbody", *body))
  return html_page.section(title, tag("div", table, class_="sheet"))


def _skipped(rows: Sequence[Row]) -> Markup:
  lines = [
    (row["file"], row["reason"].replace("_", " "), row["detail"][:160])
    for row in rows
    if row["status"] == "skipped"
  ]
  return _table("Files that were skipped", ("file", "reason", "detail"), lines)


def _warned(rows: Sequence[Row]) -> Markup:
  lines = [
    (row["file"], ", ".join(row["warnings"]).replace("_", " "))
    for row in rows
    if row["warnings"] and row["status"] == "kept"
  ]
  return _table("Files that were kept with a warning", ("file", "warnings"), lines)
