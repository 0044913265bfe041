"""The README and the maps in `__init__.py` name what stands, and all of it."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PACKAGES = ("sora_jax", "data_pipelines", "configs", "launch", "benchmarks")


def test_every_file_that_the_readme_names_exists():
  named = set(re.findall(r"`([\w./-]+/[\w.-]*\.(?:py|md|json|png|sh))(?::\w+)?`", README))
  named |= set(re.findall(r"\]\(([^)#:]+)\)", README))
  assert len(named) > 20
  assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_every_module_that_the_readme_runs_exists():
  modules = set(re.findall(r"python -m ([\w.]+)", README))
  assert "sora_jax.demo" in modules
  missing = [m for m in modules if not (ROOT / (m.replace(".", "/") + ".py")).exists()]
  assert not [m for m in missing if m.split(".")[0] in PACKAGES]


def test_the_commands_of_the_readme_are_in_the_makefile():
  makefile = (ROOT / "Makefile").read_text()
  for target in re.findall(r"(?:`|^)make (\w+)", README, re.M):
    assert re.search(rf"^{target}:", makefile, re.M), target
  assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_maps_are_complete():
  for package in PACKAGES:
    for init in (ROOT / package).rglob("__init__.py"):
      text = ast.get_docstring(ast.parse(init.read_text()), clean=False) or ""
      listed = set(re.findall(r"^  ([\w.]+)/? ", text, re.M))
      here = {p.name for p in init.parent.glob("*.py")} - {"__init__.py"}
      here |= {p.parent.name for p in init.parent.glob("*/__init__.py")}
      assert listed == here, init


def test_the_changelog_and_the_rules():
  assert "## 0.1.0" in (ROOT / "CHANGELOG.md").read_text()
  rules = re.findall(r"^\d+\. ", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
  assert 5 <= len(rules) <= 15
