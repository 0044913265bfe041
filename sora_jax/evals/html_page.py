"""HTML that escapes text by default, and pages in one file that load nothing.

Used by: report.py, serving/page.py, data_pipelines/ingest_page.py.
"""

import base64
import html
import pathlib
from collections.abc import Iterable
from typing import Any

_VOID = ("meta", "img", "source", "input")
_KINDS = {".mp4": "video/mp4", ".png": "image/png"}


class Markup(str):
  """Text that is HTML already. Any other text is escaped where `tag` puts it in."""


def tag(name: str, /, *children: str, **attributes: Any) -> Markup:
  """An element; `class_` and `aria_label` stand for class and aria-label."""
  parts = [name]
  for key, value in attributes.items():
    key = key.rstrip("_").replace("_", "-")
    parts.append(key if value is True else f'{key}="{html.escape(str(value))}"')
  opening = f"<{' '.join(parts)}>"
  if name in _VOID:
    return Markup(opening)
  inner = "".join(c if isinstance(c, Markup) else html.escape(c) for c in children)
  return Markup(f"{opening}{inner}</{name}>")


def join(parts: Iterable[Markup]) -> Markup:
  return Markup("".join(parts))


def section(title: str, *content: Markup) -> Markup:
  """A titled part of the page; nothing where there is no content."""
  return tag("section", tag("h2", title), *content) if any(content) else Markup()


def data_uri(content: bytes, suffix: str) -> str:
  """An mp4 or png as the address of itself."""
  return f"data:{_KINDS[suffix]};base64,{base64.b64encode(content).decode()}"


def file_uri(path: pathlib.Path) -> str:
  return data_uri(path.read_bytes(), path.suffix)


def write(path: pathlib.Path, title: str, body: Iterable[Markup]) -> None:
  """Writes the page."""
  head = tag(
    "head",
    tag("meta", charset="utf-8"),
    tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
    tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
    tag("title", title),
    tag("style", Markup(STYLE)),
  )
  main = tag("body", tag("main", *body), tag("script", Markup(_SCRIPT)))
  page = tag("html", head, main, lang="en")
  path.write_text(f"<!doctype html>\n{page}\n", encoding="utf-8")


# The browser, too, sees to it that nothing is loaded from elsewhere.
_POLICY = (
  "default-src 'none'; img-src data:; media-src data:; "
  "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)

# Those who asked their system for less motion find the videos paused.
_SCRIPT = """
const button = document.getElementById("pause");
const videos = [...document.querySelectorAll("video")];
let playing = true;
const toggle = () => {
  playing = !playing;
  button.textContent = playing ? "Pause videos" : "Play videos";
  for (const video of videos) {
    video.autoplay = playing;
    if (playing) video.play(); else video.pause();
  }
};
if (button) {
  button.addEventListener("click", toggle);
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) toggle();
}
"""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f8fa; --card: #fff; --ink: #1f2328; --soft: #57606a; --line: #d8dee4;
  --accent: #0969da; --good: #1a7f37; --bad: #cf222e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1117; --card: #161b22; --ink: #e6edf3; --soft: #9aa4af;
    --line: #30363d; --accent: #58a6ff; --good: #3fb950; --bad: #ff7b72;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; }
header p { color: var(--soft); font-size: 1.1rem; margin: .4rem 0 1.2rem; }
h2 { font-size: 1.25rem; margin: 0 0 .6rem; }
section { margin-top: 2.4rem; }
p.note { color: var(--soft); font-size: .9rem; margin: .6rem 0; max-width: 50rem; }
small { color: var(--soft); font-size: .8rem; font-weight: normal; display: block;
  overflow-wrap: anywhere; }
ul { padding: 0; margin: 0; list-style: none; }
figure, dl { margin: 0; }
img { max-width: 100%; display: block; }
.spoken { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); }

.tiles, .gallery, .plots, dl { display: grid; gap: .8rem; }
.tiles li, .card, .plots figure, .picture, .sheet, pre, dl, ul.notes {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .8rem; margin: 0; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tiles li { color: var(--soft); font-size: .85rem; line-height: 1.35; }
.tiles b { display: block; font-size: 1.4rem; color: var(--ink);
  white-space: nowrap; letter-spacing: -.02em; }

.sheet { overflow-x: auto; padding: .2rem .8rem; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem .5rem 0; text-align: left; vertical-align: top; }
tr + tr, thead + tbody tr { border-top: 1px solid var(--line); }
thead th { color: var(--soft); font-size: .85rem; }
.band { position: relative; height: 4px; width: 100%; max-width: 110px;
  margin-top: .3rem; border-radius: 2px; background: var(--line); }
.band span { position: absolute; top: 0; bottom: 0; border-radius: 2px;
  background: var(--accent); opacity: .45; }
.band span + span { width: 4px; margin-left: -2px; top: -2px; bottom: -2px;
  opacity: 1; }
.stages, .results td { white-space: nowrap; }
.stages th { font-weight: normal; }
.stages td:last-child { width: 70%; vertical-align: middle; padding-right: 0; }
.stages td div { height: .6rem; min-width: 2px; border-radius: 3px;
  background: var(--accent); }
.stages tr:last-child * { font-weight: bold; }

.controls { position: sticky; top: 0; z-index: 1; display: flex; gap: 1.2rem;
  align-items: center; padding: .6rem 0; margin: 1.8rem 0 -1.8rem;
  background: var(--page); font-size: .9rem; }
button { font: inherit; color: var(--ink); background: var(--card); cursor: pointer;
  border: 1px solid var(--line); border-radius: 6px; padding: .3rem .8rem; }
body:has(#misses:checked) .hit { display: none; }
.gallery { grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); }
.card p { margin: .6rem 0 .1rem; font-size: .9rem; line-height: 1.35;
  overflow-wrap: anywhere; }
.frame { aspect-ratio: 1; display: flex; align-items: center;
  justify-content: center; }
.strips { grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); }
.strips .frame { aspect-ratio: auto; }
.strips img { width: 100%; }
video, .frame img { display: block; image-rendering: pixelated;
  border-radius: 4px; outline: 1px solid var(--line); }
.marks { display: flex; flex-wrap: wrap; gap: 0 .7rem; font-size: .8rem; }
.right span:first-child { color: var(--good); }
.wrong, .wrong span:first-child { color: var(--bad); }

.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.plots figcaption { font-size: .9rem; font-weight: 600; margin-bottom: .3rem; }
.picture img { border-radius: 4px; margin: auto; }
.picture figcaption { color: var(--soft); font-size: .9rem; margin-top: .6rem; }
pre { overflow-x: auto; font: .82rem/1.5 ui-monospace, monospace; }
code { font: inherit; }
dl { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
ul.notes { margin-bottom: .8rem; padding-left: 1.8rem; list-style: disc; }

@media (max-width: 560px) {
  main { padding: 1.2rem .7rem 3rem; }
  h1 { font-size: 1.5rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .gallery { grid-template-columns: 1fr 1fr; gap: .5rem; }
  .card { padding: .5rem; }
  .sheet { padding: .2rem .6rem; }
  .results { font-size: .78rem; }
  .results th, .results td { padding-right: .4rem; }
  .results small { font-size: .7rem; }
  .results th small { display: none; }
  .stages { font-size: .85rem; }
  .stages td:last-child { width: 40%; }
}
"""
