"""Plots of a run's metrics for a page that is read on light and on dark screens.

Used by: report.py.
"""

import io
import math

import matplotlib.figure

from sora_jax.evals.html_page import Markup, data_uri, tag

_LEARNT = {"loss": "loss", "psnr_db": "PSNR, dB"}  # over the logarithm of the step
_SPEEDS = {"useful_tokens_per_s": "useful tokens per second"}
_LIGHT, _DARK = ("#57606a", "#0969da"), ("#9aa4af", "#58a6ff")  # text, line


def figures(curves: dict[str, list[dict[str, float]]]) -> Markup:
  """A plot per run and metric; metrics that the rows lack are left out."""
  plots = []
  for run, rows in curves.items():
    for metric, name in (_LEARNT | _SPEEDS).items():
      points = [
        (row["step"], row[metric])
        for row in rows
        if math.isfinite(row.get(metric, math.nan))
      ]
      if points:
        title = f"{run}: {name}"
        plot = _plot(title, points, is_speed=metric in _SPEEDS)
        plots.append(tag("figure", tag("figcaption", title), plot))
  return tag("div", *plots, class_="plots") if plots else Markup()


def _plot(title: str, points: list[tuple[float, float]], *, is_speed: bool) -> Markup:
  """Both drawings; the browser shows the one that suits the screen."""
  (first, start), (last, end) = points[0], points[-1]
  alt = f"{title}, from {start:.4g} at step {first} to {end:.4g} at step {last}"
  light, dark = (_draw(points, *inks, is_speed=is_speed) for inks in (_LIGHT, _DARK))
  source = tag("source", media="(prefers-color-scheme: dark)", srcset=dark)
  return tag("picture", source, tag("img", src=light, alt=alt))


def _draw(
  points: list[tuple[float, float]], ink: str, line: str, *, is_speed: bool
) -> str:
  """The values, pale, under their running mean, as a transparent png."""
  steps, values = zip(*points)
  figure = matplotlib.figure.Figure(figsize=(4.6, 2.5), dpi=160, layout="constrained")
  axes = figure.add_subplot()
  axes.plot(steps, values, color=line, alpha=0.35, linewidth=1)
  axes.plot(
    steps, _running_mean(values), color=line, linewidth=1.8,
    marker="o" if len(values) < 3 else None,
  )  # fmt: skip
  if is_speed:
    axes.set_ylim(bottom=0.0)
  elif steps[-1] >= 10 * steps[0] > 0:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain)
  axes.set_xlabel("step", color=ink)
  axes.tick_params(colors=ink, which="both", labelsize=9)
  axes.grid(color=ink, alpha=0.15)
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_color(ink)
  axes.yaxis.set_major_formatter(_plain)
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", transparent=True)
  return data_uri(buffer.getvalue(), ".png")


def _plain(value: float, _: int) -> str:
  return f"{value:,.6g}"


def _running_mean(values: tuple[float, ...]) -> list[float]:
  """The mean of up to a fifteenth of all values, on both sides of each."""
  reach = len(values) // 30
  means = []
  for i in range(len(values)):
    # Near an end the window narrows on both sides: it must not lag behind a slope.
    side = min(reach, i, len(values) - 1 - i)
    means.append(math.fsum(values[i - side : i + side + 1]) / (2 * side + 1))
  return means
