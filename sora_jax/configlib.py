"""Typed configs: the `@config` decorator and the `config.json` round trip.

A config is a tree of dataclasses built in Python (`configs/*.py` are the composition
roots). Every component that has hyper-parameters is such a class, so a config file
chooses a component by standing the object in the tree; nothing is looked up by name.

Used by: every package. Next: `api.py`.
"""

import dataclasses
import importlib
import json
import typing
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


def from_json(text: str, field: str | None = None) -> Any:
  """The tree that `to_json` wrote, or one field of its root.

  Reading one field does not import the classes of the others, so that a run can be
  sampled where its data pipeline is not installed.

  Raises:
    ValueError: the text is not a config, or names a class outside this project.
  """
  try:
    data = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f"config.json is not valid JSON: {error}") from error
  if field is not None:
    if field not in data:
      raise ValueError(f"config.json has no field {field!r}, only {sorted(data)}")
    data = data[field]
  return _decode(data)


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
  module, _, name = data[_CLASS_KEY].partition(":")
  if module.split(".")[0] not in _TRUSTED_PACKAGES:
    raise ValueError(f"config.json names {module}, which is not a config of this project")
  cls = getattr(importlib.import_module(module), name, None)
  if not dataclasses.is_dataclass(cls):
    raise ValueError(f"config.json names {module}:{name}, which is not a config class")
  known = {f.name for f in dataclasses.fields(cls)}
  unknown = sorted(set(data) - known - {_CLASS_KEY})
  if unknown:
    raise ValueError(f"{name} in config.json has unknown fields {unknown}")
  return cls(**{k: _decode(v) for k, v in data.items() if k != _CLASS_KEY})


def differences(a: Any, b: Any, path: str = "") -> list[str]:
  """The paths at which two config trees differ, each as `path: old -> new`."""
  if dataclasses.is_dataclass(a) and type(a) is type(b):
    names = [f.name for f in dataclasses.fields(a)]
    parts = [
      differences(getattr(a, n), getattr(b, n), f"{path}.{n}" if path else n)
      for n in names
    ]
    return [line for part in parts for line in part]
  return [] if a == b else [f"{path}: {a!r} -> {b!r}"]
