"""Ways in which a file, a JSON tree or a text goes wrong.

Used by: malformed_inputs.py.
"""

import json
import random

ABSURD = (
  None, True, -1, 0, 1e308, float("nan"), float("inf"), 2**63, -(2**70), 10**300, "", "x",
  "\0", "\ud800", "é" * 5000, [], [[]], {}, {"a": {}}, [None] * 1000, "../../etc/passwd",
)  # fmt: skip


def spoil_bytes(good: bytes, rng: random.Random) -> tuple[str, bytes]:
  """A way in which a file goes wrong, and the file."""
  n = len(good)
  a, b = sorted((rng.randrange(n), rng.randrange(n)))
  ways = {
    "cut": lambda: good[:a],
    "beheaded": lambda: good[a:],
    "head cut short": lambda: good[: min(a, 64)],
    "a hole": lambda: good[:a] + good[b:],
    "zeros": lambda: good[:a] + bytes(b - a) + good[b:],
    "flipped": lambda: bytes(
      x ^ (1 << rng.randrange(8)) if rng.random() < 0.02 else x for x in good
    ),
    "head flipped": lambda: bytes(
      x ^ (1 << rng.randrange(8)) if i < 200 and rng.random() < 0.1 else x
      for i, x in enumerate(good)
    ),
    "spliced": lambda: good[:b] + good[a:],
    "noise within": lambda: good[:a] + rng.randbytes(b - a) + good[b:],
    "noise": lambda: rng.randbytes(n),
    "text": lambda: b"not what it is called\n" * 20,
  }
  way = rng.choice(list(ways))
  return way, ways[way]()


def spoil_json(tree: object, rng: random.Random) -> tuple[str, object]:
  """A copy with one value or key gone wrong."""
  tree = json.loads(json.dumps(tree))
  places: list[tuple] = []

  def walk(node: object) -> None:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
      places.append((node, key))
      if isinstance(value, dict | list):
        walk(value)

  walk(tree)
  node, key = rng.choice(places)
  way = rng.choice(("absurd", "absurd", "absurd", "gone", "renamed", "nested"))
  if way == "absurd" or (isinstance(node, list) and way == "renamed"):
    node[key] = rng.choice(ABSURD)
  elif way == "gone":
    del node[key]
  elif way == "renamed":
    node[f"{key}_"] = node.pop(key)
  else:
    node[key] = {"more": [node[key]]}
  return f"{way}: {key}", tree


def spoil_text(good: str, rng: random.Random) -> tuple[str, bytes]:
  """JSON that is no longer: cut, not in UTF-8, too deep, or spoilt as bytes."""
  way = rng.choice(("cut", "not UTF-8", "deep", "bytes", "a list", "number"))
  raw = good.encode()
  place = rng.randrange(1, len(raw) - 1)
  return way, {
    "cut": lambda: raw[:place],
    "not UTF-8": lambda: raw[:place] + b"\xff\xfe\x80" + raw[place:],
    "deep": lambda: rng.choice((b"[", b'{"a":')) * 50_000,
    "bytes": lambda: spoil_bytes(raw, rng)[1],
    "a list": lambda: b"[" + raw + b"]",
    "number": lambda: b"9" * 6000,
  }[way]()
