"""The report is one file that needs nothing else, and shows text as text."""

import html.parser
import math

import av
import numpy as np
import pytest
from PIL import Image

from sora_jax.evals import html_page, report

PROMPT = """a "red" circle <script>alert('1')</script> & http-like words"""
TITLE = "Loss < 1 & more"


class Page(html.parser.HTMLParser):
  """Elements and texts of a page; fails where tags are not balanced."""

  def __init__(self, text: str):
    super().__init__()
    self.open: list[str] = []
    self.elements: list[tuple[str, dict]] = []
    self.texts: list[str] = []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in html_page._VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)

  def attributes(self, tag: str) -> list[dict]:
    return [attrs for name, attrs in self.elements if name == tag]

  @property
  def text(self) -> str:
    return "".join(self.texts)


def _write_mp4(path, frames=5, height=32, width=48):
  with av.open(str(path), "w") as file:
    stream = file.add_stream("libx264", rate=8)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    for i in range(frames):
      picture = np.full((height, width, 3), 40 * i, np.uint8)
      file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    file.mux(stream.encode())


def _sample(path, **changes) -> report.Sample:
  fields = {
    "path": path, "prompt": PROMPT, "frames": 5, "height": 32, "width": 48,
    "group": "seen", "verdict": None,
  }  # fmt: skip
  return report.Sample(**{**fields, **changes})


def _verdict(right: bool) -> dict:
  parts = dict.fromkeys(("color", "shape", "motion"), True)
  return {**parts, "all": right, "seen": ["<red> circle left"]}


def _accuracies(share: float) -> dict:
  result = {"n": 96}
  for part in ("color", "shape", "motion", "all"):
    result |= {f"{part}_accuracy": share, f"{part}_accuracy_ci95": [share - 0.1, 1.0]}
  return result


def _report(**changes) -> report.Report:
  fields = {
    "title": TITLE, "summary": {}, "curves": {}, "pictures": [], "samples": [],
    "config_notes": [], "commands": [],
  }  # fmt: skip
  return report.Report(**{**fields, **changes})


def _build(folder, **changes) -> tuple[str, Page]:
  report.build(folder / "report.html", _report(**changes))
  text = (folder / "report.html").read_text(encoding="utf-8")
  return text, Page(text)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
  folder = tmp_path_factory.mktemp("media")
  _write_mp4(folder / "a.mp4")
  Image.new("RGB", (8, 8), "red").save(folder / "a.png")
  return folder


@pytest.fixture
def everything(media):
  """The arguments of a page with all of its sections."""
  rows = [
    {"step": 20 * i, "loss": 1 / i, "psnr_db": 20.0 + i, "useful_tokens_per_s": 7e3}
    for i in range(1, 30)
  ]
  return {
    "summary": {
      "stages": {"render": 9.1, "train": 3725.0, "total": 3734.1},
      "hardware": {"machine": "m<achine", "devices": ["cpu", "cpu"]},
      "versions": {"jax": "0.6"},
      "autoencoder": {
        "psnr_db": 29.13, "clips": 9, "checker_on_truth": _accuracies(1.0),
        "checker_on_reconstructions": _accuracies(0.99),
      },
      "packing": {"efficiency": 0.976, "efficiency_padded": 0.4},
      "train": {"steps": 2000, "useful_tokens_per_s": 7000.0, "seconds": 600},
      "samples": {
        "count": 288, "sizes": ["32x32, 9 frames"], **_accuracies(0.95),
        "heldout": _accuracies(0.9), "two_objects": _accuracies(0.75),
      },
    },
    "curves": {"autoencoder": rows, "text-to-video": rows},
    "pictures": [report.Picture(title="P & Q", caption="<c>", path=media / "a.png")],
    "samples": [
      *(_sample(media / "a.mp4", verdict=_verdict(i % 3 > 0)) for i in range(30)),
      _sample(media / "a.png", frames=1, group="two objects", verdict=_verdict(True)),
    ],
    "config_notes": ["a <note>"],
    "commands": ["python -m a \\\n    --b='<c>'", "python -m d"],
  }  # fmt: skip


def test_page_holds_all_it_shows(everything, tmp_path):
  text, page = _build(tmp_path, **everything)
  assert "http:" not in text and "https:" not in text
  assert {"link", "iframe", "object"}.isdisjoint(name for name, _ in page.elements)
  for _, attributes in page.elements:
    for name in ("src", "srcset", "href", "poster"):
      assert attributes.get(name, "data:").startswith("data:")
  assert all("alt" in image for image in page.attributes("img"))
  (policy,) = (m for m in page.attributes("meta") if "http-equiv" in m)
  assert policy["content"].startswith("default-src 'none'")


def test_text_is_escaped(everything, tmp_path):
  text, page = _build(tmp_path, **everything)
  assert "alert('1')" not in text  # the quotes, too, are escaped
  assert len(page.attributes("script")) == 1  # the page's own
  shown = [PROMPT, TITLE, "<c>", "P & Q", "<red> circle left", "m<achine", "a <note>"]
  assert all(part in page.texts or part in page.text for part in shown)
  assert page.texts.count(PROMPT) == 25
  assert everything["commands"][0] in page.text
  assert page.attributes("video")[0]["aria-label"] == f"Video: {PROMPT}"


def test_samples_are_the_first_ones_with_their_misses(everything, tmp_path):
  _, page = _build(tmp_path, **everything)
  videos = page.attributes("video")
  assert len(videos) == 24
  assert all({"autoplay", "loop", "muted", "playsinline"} <= set(v) for v in videos)
  assert "The first 24 of 30" in page.text
  assert "16 of these 24, 20 of all 30." in page.text
  kinds = [li.get("class") for li in page.attributes("li")]
  assert kinds.count("card miss") == 8 and kinds.count("card hit") == 17
  assert page.text.count("strict: wrong") == 8


def test_numbers_are_shown(everything, tmp_path):
  _, page = _build(tmp_path, **everything)
  for part in ("29.1 dB", "97.6 %", "95 %", "65–100", "1 h 2 min", "2 × cpu", "2,000"):
    assert part in page.text, part
  assert [t["class"] for t in page.attributes("table")] == ["results", "stages"]
  assert len(page.attributes("picture")) == 6
  for name in ("Trained", "Held-out", "Two objects", "Rendered", "Autoencoded"):
    assert name in page.text


@pytest.mark.parametrize(
  "left_out",
  ["stages", "hardware", "versions", "autoencoder", "packing", "train", "samples"],
)
def test_a_missing_section_of_the_summary_is_left_out(everything, tmp_path, left_out):
  summary = {k: v for k, v in everything["summary"].items() if k != left_out}
  _build(tmp_path, **{**everything, "summary": summary, "curves": {}})


def test_a_page_of_nothing(tmp_path):
  _, page = _build(tmp_path)
  assert not page.attributes("section")
  assert TITLE in page.texts


def test_a_run_on_own_videos(media, tmp_path):
  samples = [
    _sample(media / "a.mp4", group="yours"),
    _sample(media / "a.png", group="yours", frames=1, height=512, width=256),
  ]
  summary = {
    "samples": {"count": 2, "sizes": ["32x48, 5 frames"], "heldout": {}},
    "autoencoder": {"psnr_db": 25.0, "clips": 2},
  }
  _, page = _build(tmp_path, samples=samples, summary=summary)
  assert not page.attributes("table") and "All 2" in page.text
  assert "right" not in page.text.split("Samples:")[1].split("const")[0]


def test_curves_of_one_step_and_of_values_that_are_not_finite(tmp_path):
  rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}, {"step": 3}]
  _, page = _build(tmp_path, curves={"run": rows, "empty": []})
  (picture,) = page.attributes("img")
  assert picture["alt"] == "run: loss, from 2 at step 1 to 2 at step 1"
