"""Imports point down. `LAYERS` is the picture of the architecture, lowest first."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Modules or packages of one line may import each other; a line may import those above.
LAYERS = (
  ("sora_jax.configlib",),
  ("sora_jax.api",),
  ("sora_jax.chips", "sora_jax.sharding", "sora_jax.distributed", "sora_jax.peers"),
  ("sora_jax.nn", "sora_jax.diffusion", "sora_jax.weights"),
  ("sora_jax.text", "sora_jax.vae"),
  ("sora_jax.models",),
  ("sora_jax.objectives",),
  ("sora_jax.training",),
  ("sora_jax.generation",),
  ("sora_jax.evals", "sora_jax.export"),
  ("sora_jax.serving",),
  ("sora_jax.aot",),
  ("sora_jax.cli",),
  ("sora_jax.train", "sora_jax.sample", "sora_jax.evaluate", "sora_jax.demo",
   "sora_jax.compile", "sora_jax.convert", "sora_jax.serve"),
  ("data_pipelines",),
  ("configs",),
  ("benchmarks",),
)
OURS = ("sora_jax", "data_pipelines", "configs", "benchmarks", "launch")
# The commands are entered, never imported.
ISOLATED = ("launch",)


def modules() -> dict[str, pathlib.Path]:
  found = {}
  for package in OURS:
    for path in sorted((ROOT / package).rglob("*.py")):
      found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
  return found


def layer(module: str) -> int | None:
  for number, names in enumerate(LAYERS):
    if any(module == name or module.startswith(f"{name}.") for name in names):
      return number
  return None


def imports(path: pathlib.Path) -> set[str]:
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
  return {name for name in names if name.split(".")[0] in OURS}


def test_imports_point_down():
  known = modules()
  wrong = []
  for module, path in known.items():
    for name in imports(path) & set(known):
      isolated = module.split(".")[0] in ISOLATED or name.split(".")[0] in ISOLATED
      own = module.split(".")[0] == name.split(".")[0] and isolated
      if (isolated and not own) or (
        not isolated and (layer(name) is None or layer(name) > layer(module))
      ):
        wrong.append(f"{path.relative_to(ROOT)} imports {name}")
  assert not wrong, "\n".join(wrong)


def test_every_module_has_a_layer_and_a_docstring():
  for module, path in modules().items():
    if path.name == "__init__.py":
      continue
    if module.split(".")[0] not in ISOLATED:
      assert layer(module) is not None, f"{module} stands in no layer"
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_files_and_functions_stay_small():
  for path in modules().values():
    text = path.read_text()
    assert text.count("\n") <= 320, f"{path} is longer than 320 lines"
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef):
        length = node.end_lineno - node.lineno + 1
        most = 80 if path.name == "loop.py" else 60
        assert length <= most, f"{path}:{node.lineno} {node.name} has {length} lines"
