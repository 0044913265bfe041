"""The page of a demo: one HTML file with its results, videos, curves and commands.

The file holds all that it shows, so it can be opened, moved and sent as it is.
Used by: sora_jax/demo.py, through demo_report.py. Next: html_page.py, curve_plots.py.
"""

import collections
import dataclasses
import pathlib
from typing import Any

from sora_jax.evals import curve_plots, html_page
from sora_jax.evals.html_page import Markup, join, section, tag

_MOST_PER_GROUP = 24
_MOST_SAMPLES = 72  # Chromium plays no more than 75 videos on a page
_PARTS = {"color": "color", "shape": "shape", "motion": "motion", "all": "strict"}
_GROUPS = {
  "seen": ("Trained combinations", "Kinds of object that training has shown"),
  "heldout": ("Held-out combinations", "Kinds of object that training has never shown"),
  "two_objects": ("Two objects", "Each with its own color, shape and motion"),
  "yours": ("Your prompts", "The captions of your clips"),
}
_CEILINGS = {
  "checker_on_truth": ("Rendered clips", "The checker on the truth"),
  "checker_on_reconstructions": ("Autoencoded clips", "The ceiling for samples"),
}
_STRICT = (
  "The share of videos that show what their prompt says, as a checker reads it off the "
  "frames, with its 95 % interval (Wilson). Strict: color, shape and motion are right, "
  "every object is one whole of a steady size with nothing beside it, and two objects "
  "lie as the prompt says."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
  """A png to show."""

  title: str
  caption: str
  path: pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """A sampled mp4 or png, and what the checker said of it, if it was asked.

  The verdict holds the bools color, shape, motion and all (strict), and may hold
  "seen", what the checker read off the frames.
  """

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
  commands = tag("pre", tag("code", "\n\n".join(report.commands)))
  body = [
    tag("header", tag("h1", report.title), tag("p", _lead(summary)), _tiles(summary)),
    section("Results", _results(summary)),
    _gallery(report.samples),
    section("Training", curve_plots.figures(report.curves)),
    *(section(picture.title, _picture(picture)) for picture in report.pictures),
    section("Time", _stages(summary.get("stages", {}))),
    section("Commands", commands if report.commands else Markup()),
    section("Machine and versions", _facts(report)),
  ]
  html_page.write(path, report.title, body)


def _percent(share: float) -> str:
  return f"{100 * share:.1f}".removesuffix(".0") + " %"


def _duration(seconds: float) -> str:
  if seconds < 59.95:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _lead(summary: dict[str, Any]) -> str:
  """The demo in a line."""
  samples, train = summary.get("samples", {}), summary.get("train", {})
  parts = []
  if "count" in samples:
    parts.append(f"{samples['count']:,} videos made from text")
    if samples.get("sizes"):
      parts.append(f"in {len(samples['sizes'])} combinations of size and duration")
  if "steps" in train:
    parts.append(f"by a model that was trained for {train['steps']:,} steps")
  line = " ".join(parts)
  return line[:1].upper() + line[1:] + ("." if line else "")


def _tiles(summary: dict[str, Any]) -> Markup:
  """The numbers to remember."""
  samples, packing = summary.get("samples", {}), summary.get("packing", {})
  train, tiles = summary.get("train", {}), []
  for group, name in (("seen", "trained"), ("heldout", "held-out")):
    accuracy = _accuracies(samples, group).get("all_accuracy")
    if accuracy is not None:
      tiles.append((_percent(accuracy), f"of {name} combinations strictly right"))
  if "psnr_db" in summary.get("autoencoder", {}):
    psnr = summary["autoencoder"]["psnr_db"]
    tiles.append((f"{psnr:.1f} dB", "PSNR of held-out clips, autoencoded"))
  if "efficiency" in packing:
    padded = packing.get("efficiency_padded")
    rest = f"; {_percent(padded)} if padded" if padded is not None else ""
    tiles.append((_percent(packing["efficiency"]), f"of packed rows in use{rest}"))
  if "useful_tokens_per_s" in train:
    tiles.append((f"{train['useful_tokens_per_s']:,.0f}", "useful tokens per second"))
  if "total" in summary.get("stages", {}):
    tiles.append((_duration(summary["stages"]["total"]), "for all stages together"))
  items = (tag("li", tag("b", number), " ", text) for number, text in tiles)
  return tag("ul", *items, class_="tiles") if tiles else Markup()


def _accuracies(samples: dict[str, Any], group: str) -> dict[str, Any]:
  """Those of seen prompts lie beside the other groups, not in one of their own."""
  return samples if group == "seen" else samples.get(group) or {}


def _results(summary: dict[str, Any]) -> Markup:
  """The table of accuracies: groups of samples, then what bounds them."""
  samples, codec = summary.get("samples", {}), summary.get("autoencoder", {})
  found = [(names, _accuracies(samples, group)) for group, names in _GROUPS.items()]
  found += [(names, codec.get(key) or {}) for key, names in _CEILINGS.items()]
  rows = [
    tag("tr", tag("th", name, tag("small", note), scope="row"),
        *(_accuracy(values, part) for part in _PARTS), tag("td", str(values["n"])))
    for (name, note), values in found if values.get("all_accuracy") is not None
  ]  # fmt: skip
  if not rows:
    return Markup()
  heads = (tag("th", name, scope="col") for name in (*_PARTS.values(), "n"))
  head = tag("thead", tag("tr", tag("td"), *heads))
  table = tag("table", head, tag("tbody", *rows), class_="results")
  return join([tag("div", table, class_="sheet"), tag("p", _STRICT, class_="note")])


def _accuracy(values: dict[str, Any], part: str) -> Markup:
  """A cell: the percentage, and its interval in numbers and as a band."""
  share = values[f"{part}_accuracy"]
  cell = [tag("b", _percent(share))]
  if interval := values.get(f"{part}_accuracy_ci95"):
    low, high = (100 * bound for bound in interval)
    span = tag("span", style=f"left:{low:.1f}%;right:{100 - high:.1f}%")
    mark = tag("span", style=f"left:{100 * share:.1f}%")
    cell.append(tag("small", f"{low:.0f}–{high:.0f}"))
    cell.append(tag("div", span, mark, class_="band", aria_hidden="true"))
  return tag("td", *cell)


def _gallery(samples: list[Sample]) -> Markup:
  """A section per group with its first samples: hits and misses as they come."""
  groups = collections.defaultdict(list)
  for sample in samples:
    groups[sample.group].append(sample)
  if not groups:
    return Markup()
  most = min(_MOST_PER_GROUP, max(1, _MOST_SAMPLES // len(groups)))
  longest = max(max(sample.height, sample.width) for sample in samples)
  sections = []
  for group, members in groups.items():
    name, note = _GROUPS.get(group.replace(" ", "_"), (group, ""))
    shown = members[:most]
    lines = [f"{note}. "] if note else []
    about = tag("p", *lines, _proportion(shown, members), class_="note")
    cards = tag("ul", *(_card(sample, longest) for sample in shown), class_="gallery")
    sections.append(section(f"Samples: {name.lower()}", about, cards))
  return tag("div", _controls(samples), *sections)


def _controls(samples: list[Sample]) -> Markup:
  """What html_page's script and style act on."""
  controls = []
  if any(sample.path.suffix == ".mp4" for sample in samples):
    controls.append(tag("button", "Pause videos", id="pause", type="button"))
  if any(sample.verdict for sample in samples):
    box = tag("input", type="checkbox", id="misses")
    controls.append(tag("label", box, " only what went wrong"))
  return tag("div", *controls, class_="controls")


def _proportion(shown: list[Sample], members: list[Sample]) -> str:
  """How the shown samples were taken, and how they stand to all of them."""
  cut = len(shown) < len(members)
  text = f"The first {len(shown)} of {len(members)}" if cut else f"All {len(members)}"
  text += ", in the order of the prompts; nothing was picked."
  if any(sample.verdict is None for sample in members):
    return text
  hits, of_all = (sum(s.verdict["all"] for s in some) for some in (shown, members))
  text += f" Strictly right: {hits} of these {len(shown)}"
  return text + (f", {of_all} of all {len(members)}." if cut else ".")


def _card(sample: Sample, longest: int) -> Markup:
  """One sample, its prompt, and its marks."""
  length = "1 frame" if sample.frames == 1 else f"{sample.frames} frames"
  lines = [
    tag("p", sample.prompt),
    tag("small", f"{sample.height}×{sample.width} px, {length}"),
  ]
  kind = "card"
  if verdict := sample.verdict:
    kind = "card hit" if verdict["all"] else "card miss"
    lines.append(tag("ul", *(_mark(k, verdict[k]) for k in _PARTS), class_="marks"))
    if not verdict["all"] and verdict.get("seen"):
      lines.append(tag("small", f"Checker saw: {', '.join(verdict['seen'])}"))
  return tag("li", tag("div", _media(sample, longest), class_="frame"), *lines,
             class_=kind)  # fmt: skip


def _media(sample: Sample, longest: int) -> Markup:
  """The video or image, as large beside the others as its pixels make it."""
  # Small images among large ones could not be seen at their own scale.
  scale = max(0.3, max(sample.height, sample.width) / longest)
  width = 100 * scale * min(1.0, sample.width / sample.height)
  style = f"width:{width:.1f}%;aspect-ratio:{sample.width}/{sample.height}"
  source = html_page.file_uri(sample.path)
  if sample.path.suffix == ".png":
    return tag("img", src=source, style=style, alt=f"Image: {sample.prompt}")
  return tag(
    "video", src=source, style=style, aria_label=f"Video: {sample.prompt}",
    autoplay=True, loop=True, muted=True, playsinline=True,
  )  # fmt: skip


def _mark(part: str, right: bool) -> Markup:
  """A check or a cross, in a word for those who hear the page."""
  sign = tag("span", "✓" if right else "✗", aria_hidden="true")
  word = tag("span", ": right" if right else ": wrong", class_="spoken")
  name = f" {_PARTS[part]}"
  return tag("li", sign, name, word, class_="right" if right else "wrong")


def _picture(picture: Picture) -> Markup:
  source = html_page.file_uri(picture.path)
  image = tag("img", src=source, alt=f"{picture.title}: {picture.caption}")
  return tag("figure", image, tag("figcaption", picture.caption), class_="picture")


def _stages(stages: dict[str, float]) -> Markup:
  """A table with a bar per stage, the total last."""
  if not stages:
    return Markup()
  parts = {name: seconds for name, seconds in stages.items() if name != "total"}
  total = stages.get("total", sum(parts.values()))
  longest = max(parts.values(), default=0.0) or 1.0
  rows = [
    tag("tr", tag("th", name.replace("_", " "), scope="row"),
        tag("td", _duration(seconds)),
        tag("td", tag("div", style=f"width:{100 * seconds / longest:.1f}%")))
    for name, seconds in parts.items()
  ]  # fmt: skip
  rows.append(tag("tr", tag("th", "total", scope="row"), tag("td", _duration(total)),
                  tag("td")))  # fmt: skip
  return tag("div", tag("table", *rows, class_="stages"), class_="sheet")


def _facts(report: Report) -> Markup:
  """Notes, hardware and versions."""
  facts = {**report.summary.get("hardware", {}), **report.summary.get("versions", {})}
  pairs = [
    tag("div", tag("dt", name.replace("_", " ")), tag("dd", _plain(value)))
    for name, value in facts.items()
  ]
  notes = [tag("li", note) for note in report.config_notes]
  return join([
    tag("ul", *notes, class_="notes") if notes else Markup(),
    tag("dl", *pairs) if pairs else Markup(),
  ])  # fmt: skip


def _plain(value: Any) -> str:
  """A list as "2 × this, that"."""
  if not isinstance(value, list):
    return str(value)
  counts = collections.Counter(map(str, value)).items()
  return ", ".join(f"{n} × {item}" if n > 1 else item for item, n in counts)
