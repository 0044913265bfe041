"""The page of a demo: one HTML file that holds its videos and pictures and needs no net.

Used by: sora_jax/demo.py, through demo_report.py.
"""

import base64
import collections
import dataclasses
import html
import io
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import matplotlib.figure

_MOST_PER_GROUP = 24
_MOST_VIDEOS = 72  # Chromium stops at 75 players a page
_PARTS = {"color": "color", "shape": "shape", "motion": "motion", "all": "all, strict"}
_GROUPS = {
  "seen": ("Trained combinations", "color, shape and motion were trained on together"),
  "heldout": ("Held-out combinations", "never together in training"),
  "two_objects": ("Two objects", "two objects and how they lie to each other"),
  "yours": ("Your prompts", "at the sizes of your clips"),
}
_CEILINGS = {
  "checker_on_truth": ("Rendered clips", "what the checker makes of the truth"),
  "checker_on_reconstructions": ("Reconstructions", "the same clips, autoencoded"),
}
_METRICS = {  # metric: (name, factor)
  "loss": ("loss", 1),
  "psnr_db": ("PSNR, dB", 1),
  "useful_tokens_per_s": ("useful tokens per second", 1),
  "packing_efficiency": ("positions in use, %", 100),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
  """A png to show."""

  title: str
  caption: str
  path: pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """A sampled mp4 or png, and the checker's verdict where there is one."""

  path: pathlib.Path
  prompt: str
  frames: int
  height: int
  width: int
  group: str
  verdict: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """What the page shows. Whatever `summary` (of report.json) lacks is left out."""

  title: str
  summary: dict[str, Any]
  curves: dict[str, list[dict[str, float]]]
  pictures: list[Picture]
  samples: list[Sample]
  config_notes: list[str]
  commands: list[str]


def build(path: pathlib.Path, report: Report) -> None:
  """Writes the page of `report` to `path`."""
  summary = report.summary
  body = [
    _tag("header", _tag("h1", report.title), _tag("p", _lead(summary)), _tiles(summary)),
    _section("Results", _results(summary)),
    *_gallery(report.samples),
    _section("Training", _curves(report.curves)),
    *(_section(p.title, _picture(p)) for p in report.pictures),
    _section("Time", _stages(summary.get("stages", {}))),
    _section("Commands", _tag("pre", _tag("code", "\n\n".join(report.commands)))
             if report.commands else ""),
    _section("Machine and versions", _facts(report)),
  ]  # fmt: skip
  head = [
    _tag("meta", charset="utf-8"),
    _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
    _tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
    _tag("title", report.title),
    _tag("style", _Markup(_STYLE)),
  ]
  page = _tag(
    "html", _tag("head", *head),
    _tag("body", _tag("main", *body), _tag("script", _Markup(_SCRIPT))), lang="en",
  )  # fmt: skip
  path.write_text(f"<!doctype html>\n{page}\n", encoding="utf-8")


class _Markup(str):
  """Text that is HTML already. Any other text is escaped where `_tag` puts it in."""


def _tag(name: str, *children: str, **attributes: Any) -> _Markup:
  """An element; `class_` and `aria_label` stand for class and aria-label."""
  parts = [name]
  for key, value in attributes.items():
    key = key.rstrip("_").replace("_", "-")
    parts.append(key if value is True else f'{key}="{html.escape(str(value))}"')
  opening = f"<{' '.join(parts)}>"
  if name in ("meta", "img", "source", "input"):
    return _Markup(opening)
  inner = "".join(c if isinstance(c, _Markup) else html.escape(c) for c in children)
  return _Markup(f"{opening}{inner}</{name}>")


def _join(parts: Iterable[str]) -> _Markup:
  return _Markup("".join(parts))


def _section(title: str, *content: str) -> _Markup:
  """Nothing where there is no content."""
  return _tag("section", _tag("h2", title), *content) if any(content) else _Markup()


def _data_uri(content: bytes, suffix: str) -> str:
  kind = {".mp4": "video/mp4", ".png": "image/png"}[suffix]
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _percent(value: float) -> str:
  return f"{100 * value:.1f}".removesuffix(".0") + " %"


def _duration(seconds: float) -> str:
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest:02d} s"


def _lead(summary: dict[str, Any]) -> str:
  samples, train = summary.get("samples", {}), summary.get("train", {})
  parts = []
  if "count" in samples:
    parts.append(f"{samples['count']} videos made from text")
    if samples.get("sizes"):
      parts[-1] += f", in {len(samples['sizes'])} sizes and durations"
  if "steps" in train:
    parts.append(f"a model trained for {train['steps']:,} steps")
  return ", by ".join(parts) + ("." if parts else "")


def _tiles(summary: dict[str, Any]) -> _Markup:
  """The numbers to remember."""
  samples, packing = summary.get("samples", {}), summary.get("packing", {})
  train, tiles = summary.get("train", {}), []
  for group, name in (("seen", "trained"), ("heldout", "held-out")):
    accuracy = _accuracies(samples, group).get("all_accuracy")
    if accuracy is not None:
      tiles.append((_percent(accuracy), f"of the {name} prompts come out all right"))
  if "psnr_db" in summary.get("autoencoder", {}):
    psnr = summary["autoencoder"]["psnr_db"]
    tiles.append((f"{psnr:.1f} dB", "PSNR of the autoencoder on held-out clips"))
  if "efficiency" in packing:
    padded = packing.get("efficiency_padded")
    rest = f" ({_percent(padded)} if padded)" if padded is not None else ""
    tiles.append((_percent(packing["efficiency"]), f"of the packed rows is used{rest}"))
  if "useful_tokens_per_s" in train:
    tiles.append((f"{train['useful_tokens_per_s']:,.0f}", "useful tokens a second"))
  if "total" in summary.get("stages", {}):
    tiles.append((_duration(summary["stages"]["total"]), "from nothing to this page"))
  items = (_tag("li", _tag("b", number), " ", text) for number, text in tiles)
  return _tag("ul", *items, class_="tiles") if tiles else _Markup()


def _accuracies(samples: dict[str, Any], group: str) -> dict[str, Any]:
  return samples if group == "seen" else samples.get(group) or {}


def _results(summary: dict[str, Any]) -> _Markup:
  """The table of accuracies."""
  samples, codec = summary.get("samples", {}), summary.get("autoencoder", {})
  found = [(names, _accuracies(samples, group)) for group, names in _GROUPS.items()]
  found += [(names, codec.get(key) or {}) for key, names in _CEILINGS.items()]
  rows = [
    _tag("tr", _tag("th", name, _tag("small", note), scope="row"),
         *(_accuracy(values, part) for part in _PARTS), _tag("td", str(values["n"])))
    for (name, note), values in found if values.get("all_accuracy") is not None
  ]  # fmt: skip
  if not rows:
    return _Markup()
  columns = (_tag("th", name, scope="col") for name in ("", *_PARTS.values(), "n"))
  table = _tag(
    "table", _tag("thead", _tag("tr", *columns)), _tag("tbody", *rows), class_="results"
  )
  return _tag("div", table, class_="scroll") + _tag("p", _STRICT, class_="note")


def _accuracy(values: dict[str, Any], part: str) -> _Markup:
  """A cell: the percentage, and its interval in numbers and as a band."""
  value = values[f"{part}_accuracy"]
  cell = [_tag("b", _percent(value))]
  if interval := values.get(f"{part}_accuracy_ci95"):
    low, high = (100 * bound for bound in interval)
    band = _tag("i", style=f"left:{low:.1f}%;right:{100 - high:.1f}%")
    dot = _tag("u", style=f"left:{100 * value:.1f}%")
    cell += [_tag("small", f"{low:.0f} to {high:.0f}"), _tag("div", band, dot)]
  return _tag("td", *cell)


def _gallery(samples: list[Sample]) -> list[_Markup]:
  """A section per group: its first samples, hits and misses as they come."""
  groups = collections.defaultdict(list)
  for sample in samples:
    groups[sample.group].append(sample)
  most = min(_MOST_PER_GROUP, max(1, _MOST_VIDEOS // max(1, len(groups))))
  longest = max((max(s.height, s.width) for s in samples), default=1)
  sections = []
  for group, members in groups.items():
    name, note = _GROUPS.get(group.replace(" ", "_"), (group.capitalize(), ""))
    shown = members[:most]
    count = f"the first {most} of {len(members)}" if members[most:] else f"all {most}"
    if len(members) <= most:
      count = f"all {len(members)}"
    lines = [f"Samples: {note + '; ' if note else ''}{count}, in order, not chosen."]
    if verdicts := [s.verdict for s in members if s.verdict]:
      hits = [sum(bool(v and v["all"]) for v in vs)
              for vs in ([s.verdict for s in shown], verdicts)]  # fmt: skip
      lines.append(f" Strictly right: {hits[0]} of the {len(shown)} shown,")
      lines.append(f" {hits[1]} of all {len(verdicts)}.")
    cards = _tag("ul", *(_card(s, longest) for s in shown), class_="gallery")
    sections.append(_section(name, _tag("p", *lines, class_="note"), cards))
  return sections
