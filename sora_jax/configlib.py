"""Typed configs: the `@config` decorator and the `config.json` round trip.

A config is a tree of dataclasses built in Python (`configs/*.py` are the composition
roots). Every component that has hyper-parameters is such a class, so a config file
chooses a component by standing the object in the tree; nothing is looked up by name.

Used by: every package. Next: `api.py`.
"""

import dataclasses
import importlib
import json
import pathlib
import types
import typing
from collections.abc import Iterator
from typing import Any

# A config file is data. It may only name classes of this project.
_TRUSTED_PACKAGES = ("sora_jax", "data_pipelines", "configs")
_CLASS_KEY = "__class__"


@typing.dataclass_transform(kw_only_default=True)
def config(cls: type) -> type:
  """Marks a class as a config: `dataclass(kw_only, slots, unsafe_hash)`.

  Not frozen, because `--config.a.b=` overrides assign to fields; nobody else assigns
  after `get_config`. `slots` turns a misspelt field into an error, and the hash lets a
  config be a static argument of `jax.jit`.
  """
  return dataclasses.dataclass(kw_only=True, slots=True, unsafe_hash=True)(cls)


def to_json(tree: Any) -> str:
  """A config tree as JSON text, each object with the path of its class."""
  return json.dumps(_encode(tree), indent=2)


def read(path: pathlib.Path) -> str:
  """The text of a config.json.

  Raises:
    ValueError: it is not text.
  """
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not text in UTF-8: {error}") from error


def from_json(text: str, field: str | None = None) -> Any:
  """The tree that `to_json` wrote, or one field of its root.

  Reading one field does not import the classes of the others, so that a run can be
  sampled where its data pipeline is not installed.

  Raises:
    ValueError: the text is not a config, names a class outside this project, or has a
      value that its field does not take.
  """
  try:
    data = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(f"config.json is not valid JSON: {error}") from error
  if field is not None:
    if not isinstance(data, dict):
      raise ValueError("config.json is not a JSON object")
    if field not in data:
      raise ValueError(f"config.json has no field {field!r}, only {sorted(data)}")
    data = data[field]
  try:
    return _decode(data)
  except RecursionError as error:  # json.loads goes deeper
    raise ValueError(f"config.json is not a config: {error}") from error


def _encode(value: Any) -> Any:
  if dataclasses.is_dataclass(value):
    fields = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    cls = type(value)
    return {_CLASS_KEY: f"{cls.__module__}:{cls.__qualname__}", **fields}
  if isinstance(value, tuple | list):
    return [_encode(v) for v in value]
  if isinstance(value, dict):
    return {str(k): _encode(v) for k, v in value.items()}
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise ValueError(f"configs hold plain values only, not {type(value).__name__}")


def _decode(data: Any) -> Any:
  if isinstance(data, list):
    return tuple(_decode(v) for v in data)
  if not isinstance(data, dict):
    return data
  if _CLASS_KEY not in data:
    return {k: _decode(v) for k, v in data.items()}
  cls = _class(data[_CLASS_KEY])
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
  values = {k: _decode(v) for k, v in data.items() if k != _CLASS_KEY}
  unknown = sorted(set(values) - set(fields))
  if unknown:
    raise ValueError(f"{cls.__name__} in config.json has unknown fields {unknown}")
  hints = typing.get_type_hints(cls)
  for name, value in values.items():
    if not fits(value, hints[name]):
      raise ValueError(
        f"{cls.__name__}.{name} in config.json is {value!r:.80}, not {_named(hints[name])}"
      )
  missing = [
    name for name, f in fields.items() if name not in values
    and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
  ]  # fmt: skip
  if missing:
    raise ValueError(f"{cls.__name__} in config.json lacks the fields {missing}")
  return cls(**values)


def _class(path: Any) -> type:
  """The config class of a path such as `sora_jax.sharding:MeshConfig`."""
  module, _, name = str(path).partition(":")
  if module.split(".")[0] not in _TRUSTED_PACKAGES:
    raise ValueError(
      f"config.json names {module!r:.80}, which is not a config of this project"
    )
  try:
    cls = getattr(importlib.import_module(module), name, None)
  except Exception as error:  # whatever a module that is no config's does on import
    raise ValueError(
      f"config.json names {module!r:.80}, which cannot be read: {error}"
    ) from error
  # Classes of other packages stand in our modules too.
  own = isinstance(cls, type) and f"{cls.__module__}:{cls.__qualname__}" == path
  if not own or not dataclasses.is_dataclass(cls):
    raise ValueError(f"config.json names {path!r:.80}, which is not a config class")
  return cls


def check(tree: Any, path: str = "config") -> Any:
  """The tree itself, when every value is what its field's type says.

  For what came from a command line, where tuples are taken as they are typed.

  Raises:
    ValueError: a value is not; names the field.
  """
  hints = typing.get_type_hints(type(tree))
  for field in dataclasses.fields(tree):
    value, place = getattr(tree, field.name), f"{path}.{field.name}"
    if not fits(value, hints[field.name]):
      raise ValueError(f"--{place} is {value!r:.80}, not {_named(hints[field.name])}")
    for where, part in _configs(value, place):
      check(part, where)
  return tree


def _configs(value: Any, place: str) -> Iterator[tuple[str, Any]]:
  """The config that a value is, or those that stand in it, each with its place."""
  if dataclasses.is_dataclass(value):
    yield place, value
  elif isinstance(value, dict | tuple | list):
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
      yield from _configs(part, f"{place}.{key}")


def fits(value: Any, hint: Any) -> bool:
  """Whether a value is what a field's type says; to a protocol, anything is."""
  origin, parts = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    return any(fits(value, part) for part in parts)
  if origin is tuple:
    if not isinstance(value, tuple):
      return False
    if parts[1:] == (...,):
      parts = (parts[0],) * len(value)
    return len(parts) == len(value) and all(map(fits, value, parts))
  if origin is dict:
    return isinstance(value, dict) and all(fits(v, parts[1]) for v in value.values())
  if hint in (int, float):
    return isinstance(value, int | hint) and not isinstance(value, bool)
  plain = hint in (str, bool, type(None)) or dataclasses.is_dataclass(hint)
  return isinstance(value, hint) if plain else True


def _named(hint: Any) -> str:
  return hint.__name__ if isinstance(hint, type) else str(hint)


def differences(a: Any, b: Any, path: str = "") -> list[str]:
  """The paths at which two config trees differ, each as `path: old -> new`."""
  if dataclasses.is_dataclass(a) and type(a) is type(b):
    names = [f.name for f in dataclasses.fields(a)]
    parts = [
      differences(getattr(a, n), getattr(b, n), f"{path}.{n}" if path else n)
      for n in names
    ]
    return [line for part in parts for line in part]
  if isinstance(a, dict) and isinstance(b, dict):
    lines = []
    for key in sorted({*a, *b}):
      if key in a and key in b:
        lines += differences(a[key], b[key], f"{path}.{key}")
      else:
        lines.append(f"{path}.{key}: {a.get(key, 'none')!r} -> {b.get(key, 'none')!r}")
    return lines
  return [] if a == b else [f"{path}: {a!r} -> {b!r}"]
