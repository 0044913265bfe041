"""What users write -> requests: lines of a prompts file, bodies of the web page's forms.

A line is {"prompt": ...} and, where they differ from the command's, "size" ("HxW"),
"frames" and "seed"; of a file also a "group".

Used by: sora_jax/sample.py, serving/studio.py.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from sora_jax.generation import canvas

_FIELDS = ("prompt", "size", "frames", "seed", "group")


def read(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a file; one that is not JSON is a prompt.

  Raises:
    ValueError: there is no such file, or a line is none; names it.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"--prompts_file={path} does not exist")
  try:
    # Not splitlines: to it, some letters within a prompt end a line as well.
    lines = path.read_text(encoding="utf-8").split("\n")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not text in UTF-8: {error}") from error
  found = []
  for number, line in enumerate(lines, 1):
    if line.strip():
      try:
        found.append(_line(line.strip()))
      except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: {error}") from error
  return found


def _line(text: str) -> dict[str, Any]:
  if not text.startswith("{"):
    line = {"prompt": text}
  else:
    try:
      line = json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(f"not valid JSON ({error})") from error
  unknown = [name for name in line if name not in _FIELDS]
  if unknown:
    raise ValueError(f"there is no field {unknown[0]!r:.40}, only {', '.join(_FIELDS)}")
  if not isinstance(line.get("group", ""), str):
    raise ValueError('"group" must be text')
  request(line, size="1x1", frames=1, seed=0)  # says what is wrong with it
  return line


def request(
  line: Mapping[str, Any], *, size: str, frames: int, seed: int
) -> canvas.Request:
  """The request of a line, with these where the line says nothing.

  Raises:
    ValueError: a value is none that its field takes.
  """
  if "prompt" not in line:
    raise ValueError('no "prompt"')
  height, width = parse_size(line.get("size", size))
  return canvas.Request(
    prompt=line["prompt"], height=height, width=width,
    frames=line.get("frames", frames), seed=line.get("seed", seed),
  )  # fmt: skip


def parse_size(text: Any) -> tuple[int, int]:
  """"32x48" -> (32, 48): height, width."""
  match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", str(text))
  if not match:
    raise ValueError(f"a size is HEIGHTxWIDTH, such as 32x48, not {text!r:.60}")
  return int(match[1]), int(match[2])


def slug(prompt: str) -> str:
  """The beginning of a prompt as part of a file's name: letters, digits and _ only."""
  short = re.sub(r"\W+", "_", prompt)[:60].encode()[:180]  # a name has 255 bytes at most
  return short.decode(errors="ignore").strip("_")
