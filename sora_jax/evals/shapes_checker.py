"""Reads color, shape and motion off a video of moving shapes, and marks it.

The reader knows the world's palette and shapes but not the caption: it says what it
sees, and `check` compares that with what the caption asked for. `all` is strict: in
addition to the three attributes, every object is one connected blob in at least 80 % of
the frames, with nothing beside it, of a steady size, and not stretched.

Shapes: T frames, H, W pixels; K palette colors.
Used by: sora_jax/evaluate.py, data_pipelines/jobs/check_codec.py.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import ndimage

from sora_jax.evals import shapes_world as world

_FOREGROUND = 45.0  # distance from the background's color, in levels of 255
_CERTAIN = 90.0  # pixels that vote for a color
_EIGHT_NEIGHBORS = np.ones((3, 3))


@dataclasses.dataclass(frozen=True)
class Reading:
  """What is seen of one object."""

  color: str
  shape: str
  motion: str | None
  center: tuple[float, float]  # mean (y, x) in pixels
  strict: bool


def read(frames: np.ndarray, num_objects: int) -> list[Reading]:
  """The objects of a video, largest color first; fewer where fewer colors are seen.

  Args:
    frames: uint8 [T, H, W, 3].
    num_objects: 1 takes everything in the foreground for one object; 2 parts it by its
      two strongest colors.
  """
  video = frames.astype(np.float32)
  difference = video - np.median(video, axis=(0, 1, 2))
  distance = np.linalg.norm(difference, axis=-1)
  names, palette = _palette(np.median(video, axis=(0, 1, 2)))
  # A blurred edge mixes object and background, which changes the length of the
  # difference and not its direction.
  direction = difference / np.maximum(distance, 1e-3)[..., None]
  similarity = direction @ (palette / np.linalg.norm(palette, axis=-1, keepdims=True)).T
  votes = np.bincount(
    similarity.argmax(-1)[distance > _CERTAIN], minlength=len(names)
  )
  chosen = [int(k) for k in np.argsort(-votes)[:num_objects] if votes[k]]
  owner = similarity[..., chosen].argmax(-1) if chosen else None
  readings = []
  for number, k in enumerate(chosen):
    # 1 inside the object, 0 on the background.
    alpha = np.clip(difference @ palette[k] / np.sum(palette[k] ** 2), 0.0, 1.0)
    alpha = np.where((distance > _FOREGROUND) & (owner == number), alpha, 0.0)
    readings.append(_read_object(names[k], alpha))
  return readings


def _palette(background: np.ndarray) -> tuple[list[str], np.ndarray]:
  """Names, and [K, 3] differences from the background."""
  colors = np.asarray(list(world.COLORS.values()), np.float32)
  return list(world.COLORS), colors - background


def _read_object(color: str, alpha: np.ndarray) -> Reading:
  """alpha: [T, H, W], how much of each pixel is the object."""
  area = alpha.sum((1, 2))
  seen = np.flatnonzero(area > 4.0)
  if not len(seen):
    return Reading(color, "none", None, (0.0, 0.0), False)
  grid = np.indices(alpha.shape[1:]) + 0.5
  centers = np.einsum("thw,chw->tc", alpha[seen], grid) / area[seen, None]
  shape = _shape(alpha[seen], centers, float(np.median(area[seen])))
  strict = _is_strict(alpha, area, shape)
  y, x = centers.mean(0)
  return Reading(color, shape, _motion(seen, centers), (float(y), float(x)), strict)


def _shape(alpha: np.ndarray, centers: np.ndarray, area: float) -> str:
  """The shape whose drawing of the same area overlaps best, over all frames."""
  overlaps = {}
  for shape in world.SHAPES:
    # A triangle's centroid lies a sixth of its height below its middle.
    unit_area = 2 * world.extent(shape) ** 2 if shape == "triangle" else math.pi
    radius = math.sqrt(area / unit_area)
    drop = radius * world.extent(shape) / 3 if shape == "triangle" else 0.0
    drawn = world.coverage(shape, *alpha.shape[1:], centers - [drop, 0.0], radius)
    overlap = np.minimum(alpha, drawn).sum((1, 2)) / np.maximum(alpha, drawn).sum((1, 2))
    overlaps[shape] = float(overlap.mean())
  return max(overlaps, key=overlaps.get)


def _motion(times: np.ndarray, centers: np.ndarray) -> str | None:
  """The direction of the straight line through the centers, None where it is still."""
  if len(times) < 2:
    return None
  travel = np.polyfit(times, centers, 1)[0] * (times[-1] - times[0])
  axis = int(np.argmax(np.abs(travel)))
  if abs(travel[axis]) < 2.0 or abs(travel[axis]) < 1.5 * abs(travel[1 - axis]):
    return None
  step = [0, 0]
  step[axis] = int(np.sign(travel[axis]))
  return next(name for name, d in world.MOTIONS.items() if d == tuple(step))


def _is_strict(alpha: np.ndarray, area: np.ndarray, shape: str) -> bool:
  low, high = np.percentile(area, (10, 90))
  if high > 1.8 * max(low, 1e-3):
    return False
  single, aspects = 0, []
  for frame in alpha > 0.5:
    labels, _count = ndimage.label(frame, _EIGHT_NEIGHBORS)
    sizes = np.bincount(labels.ravel())[1:]
    # Specks that the eye passes over are not objects.
    blobs = np.flatnonzero(sizes >= max(6, 0.1 * sizes.max(initial=0))) + 1
    single += len(blobs) == 1
    if len(blobs):
      y, x = ndimage.find_objects(labels)[int(np.argmax(sizes))]
      sides = y.stop - y.start, x.stop - x.start
      aspects.append(max(sides) / min(sides))
  stretched = shape != "triangle" and (not aspects or np.median(aspects) > 1.3)
  return single >= 0.8 * len(alpha) and not stretched


def check(frames: np.ndarray, caption: str) -> dict[str, Any]:
  """Whether a video shows what its caption says.

  Args:
    frames: uint8 [T, H, W, 3].
    caption: one of the world's (`shapes_world.parse_caption`).

  Returns:
    Bools `color`, `shape`, `motion` (each for every object), `relation`, `strict` (see
    the module), `all` (all of these), and `seen`, the readings.
  """
  wanted, relation = world.parse_caption(caption)
  seen = read(frames, len(wanted))
  # A single object is judged by shape and motion even where its color is wrong.
  by_color = {reading.color: reading for reading in seen}
  found = seen if len(wanted) == 1 else [by_color.get(spec.color) for spec in wanted]
  pairs = list(zip(wanted, found))
  complete = len(seen) == len(wanted) and None not in found
  result = {
    "color": complete and all(r.color == spec.color for spec, r in pairs),
    "shape": complete and all(r.shape == spec.shape for spec, r in pairs),
    "motion": complete and all(r.motion == spec.motion for spec, r in pairs),
    "relation": complete and _holds(relation, [r.center for _, r in pairs]),
    "strict": complete and all(r.strict for _, r in pairs),
  }
  return result | {
    "all": all(result.values()),
    "seen": [f"{r.color} {r.shape} {r.motion}" for r in seen],
  }


def _holds(relation: str | None, centers: list[tuple[float, float]]) -> bool:
  if relation is None:
    return True
  axis = 0 if relation == "above" else 1
  return centers[0][axis] < centers[1][axis]


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
  """Accuracies of color, shape, motion, all (strict), each with a 95 % interval."""
  summary: dict[str, Any] = {"n": len(results)}
  for part in ("color", "shape", "motion", "all"):
    hits = sum(result[part] for result in results)
    summary[f"{part}_accuracy"] = hits / len(results) if results else None
    summary[f"{part}_accuracy_ci95"] = wilson_interval(hits, len(results))
  return summary


def wilson_interval(hits: int, n: int, z: float = 1.96) -> list[float]:
  """The 95 % interval of a proportion (Wilson 1927)."""
  if not n:
    return [0.0, 1.0]
  p = hits / n
  middle = p + z * z / (2 * n)
  half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  scale = 1 + z * z / n
  return [max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)]
