"""What is installed is what was tested: `make check` and `make audit` see to the rest."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def test_every_dependency_is_pinned_to_one_version():
  pinned = set()
  for line in (ROOT / "constraints.txt").read_text().splitlines():
    if line.strip() and not line.startswith("#"):
      match = re.fullmatch(r"([\w.-]+)==[\w.+!]+( ; python_version .+)?", line)
      assert match, f"constraints.txt: {line!r} is not NAME==VERSION"
      pinned.add(_plain(match[1]))
  asked = re.findall(r'"([A-Za-z][\w.-]*)(?:\[\w+\])?(?:>=[\d.]+)?",?',
                     _between("install_requires=[", "extras_require"))  # fmt: skip
  assert len(asked) > 20
  assert not [name for name in asked if _plain(name) not in pinned]


def test_ci_checks_them():
  commands = (ROOT / ".ci" / "run").read_text().splitlines()
  assert "make check" in commands and "make lint" in commands
  assert "pip check" in (ROOT / "Makefile").read_text()


def _between(start: str, end: str) -> str:
  return (ROOT / "setup.py").read_text().partition(start)[2].partition(end)[0]


def _plain(name: str) -> str:
  return re.sub(r"[-_.]+", "-", name).lower()
