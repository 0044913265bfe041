"""What a compiled program moves: collectives by mesh axis, and bytes through HBM.

Read off the text of the optimized HLO. A loop's body counts as often as the loop's
condition lets it run; a scheduled reduce-scatter is a fusion around an all-reduce, as
TPUs have it; what a fusion reads through a dynamic slice counts as the slice only, and
a dynamic update as the update only.

Used by: report.py.
"""

import collections
import dataclasses
import itertools
import math
import re

import jax
import numpy as np

_BYTES = {
  "pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "bf16": 2, "f16": 2, "s16": 2,
  "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8,
}  # fmt: skip
_SHAPE = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9]\w*)?)\[([0-9,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_COLLECTIVES = {
  "all-gather": "all-gather", "all-reduce": "all-reduce", "all-to-all": "all-to-all",
  "ragged-all-to-all": "all-to-all", "reduce-scatter": "reduce-scatter",
  "collective-permute": "collective-permute",
}  # fmt: skip
_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call",
  "conditional", "after-all", "partition-id", "replica-id", "iota", "copy-done",
  "opt-barrier", "custom-call-done",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Instruction:
  name: str
  shape: str
  op: str
  rest: str  # operands and attributes

  @property
  def bytes(self) -> int:
    return _size(self.shape)

  @property
  def hbm_bytes(self) -> int:
    """Of what lies in HBM; S(1) and the like are memories on the chip."""
    found = (s for s in _SHAPE.finditer(self.shape) if "S(" not in (s[3] or ""))
    return sum(_size(s.group()) for s in found)

  @property
  def operands(self) -> list[str]:
    return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])

  def attribute(self, name: str) -> str | None:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
    return found and found[1]


@dataclasses.dataclass
class Traffic:
  """Of one device and one run of the program."""

  # (kind, mesh axes) -> [calls, bytes sent]
  collectives: dict[tuple[str, str], list[float]]
  hbm_bytes: float


def traffic(text: str, mesh: jax.sharding.Mesh) -> Traffic:
  """What the program of this text moves; its devices are those of the mesh, in order."""
  computations, entry = _parse(text)
  found = Traffic(collections.defaultdict(lambda: [0, 0.0]), 0.0)
  groups = _Groups(mesh)

  def visit(name: str, times: float) -> None:
    own = {i.name: i for i in computations[name]}
    for one in computations[name]:
      kind = _COLLECTIVES.get(one.op.removesuffix("-start"))
      called = one.attribute("calls")
      if kind:
        _add(found, groups, kind, one, times)
      elif one.op == "while":
        condition, body = one.attribute("condition"), one.attribute("body")
        visit(body, times * _trips(computations[condition]))
        continue
      elif one.op == "conditional":
        branches = re.findall(r"%([\w.\-]+)", one.rest.partition("branch_computations")[2])
        for branch in branches[:1]:
          visit(branch, times)
      elif one.op in ("call", "async-start") and (called or one.attribute("to_apply")):
        visit(called or one.attribute("to_apply"), times)
      elif one.op == "fusion":
        for inner in computations[called]:
          inside = _COLLECTIVES.get(inner.op)
          if inside:
            scattered = called.startswith("all-reduce-scatter")
            kind = "reduce-scatter" if scattered else inside
            _add(found, groups, kind, inner, times)
      if one.op not in _FREE and not one.op.endswith("-done"):
        found.hbm_bytes += times * _moved(one, own, computations.get(called, []))

  visit(entry, 1)
  return found


def _add(found: Traffic, groups: "_Groups", kind: str, one: Instruction, times: float):
  axes, size = groups.of(one)
  if size < 2:
    return
  # An asynchronous start has its operands in its shape, too: the result is the largest.
  data = one.bytes
  if one.op.endswith("-start"):
    data = max(_size(s.group()) for s in _SHAPE.finditer(one.shape))
  share = (size - 1) / size
  sent = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share) * data
  entry = found.collectives[kind, axes]
  entry[0] += times
  entry[1] += times * sent


def _moved(one: Instruction, own: dict, fused: list[Instruction]) -> float:
  """Bytes that an instruction reads and writes."""
  if one.op in ("dynamic-slice", "slice"):
    return 2 * one.hbm_bytes
  if one.op == "dynamic-update-slice":
    update = own.get(one.operands[1]) if len(one.operands) > 1 else None
    return 2 * (update.bytes if update and one.hbm_bytes else 0)
  operands = [own[name].hbm_bytes if name in own else 0 for name in one.operands]
  written = one.hbm_bytes
  if fused:
    parameters = {
      i.name: int(re.match(r"(\d+)", i.rest)[1]) for i in fused if i.op == "parameter"
    }
    byname = {i.name: i for i in fused}
    for name, number in parameters.items():
      users = [i for i in fused if name in i.operands]
      if number >= len(operands) or not operands[number]:
        continue  # in no HBM
      if users and all(i.op == "dynamic-slice" for i in users):
        operands[number] = sum(i.bytes for i in users)
      for user in users:
        if user.op == "dynamic-update-slice" and user.operands[:1] == [name]:
          update = byname.get(user.operands[1])
          if update:
            operands[number] = 0
            written += update.bytes - user.bytes
  return max(written, 0) + sum(operands)


class _Groups:
  """Replica groups -> the mesh axes that they run along."""

  def __init__(self, mesh: jax.sharding.Mesh):
    self.shape, self.names = mesh.devices.shape, mesh.axis_names
    ids = np.arange(mesh.devices.size).reshape(self.shape)
    self.known = {}
    axes = [i for i, size in enumerate(self.shape) if size > 1]
    for count in range(1, len(axes) + 1):
      for chosen in itertools.combinations(axes, count):
        others = [i for i in range(ids.ndim) if i not in chosen]
        rows = ids.transpose(*others, *chosen).reshape(-1, self._size(chosen))
        name = "+".join(self.names[i] for i in chosen)
        self.known[frozenset(map(frozenset, rows.tolist()))] = name

  def _size(self, axes: tuple[int, ...]) -> int:
    return math.prod(self.shape[i] for i in axes)

  def of(self, one: Instruction) -> tuple[str, int]:
    """(axes, devices in a group)."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", one.rest)
    if pairs:
      numbers = [int(n) for n in re.findall(r"\d+", pairs[1])]
      a, b = (np.unravel_index(n, self.shape) for n in numbers[:2])
      moved = [self.names[i] for i in range(len(a)) if a[i] != b[i]]
      return "+".join(moved) or "none", 2 if moved else 1
    groups = _replica_groups(one.rest, math.prod(self.shape))
    size = len(groups[0])
    return self.known.get(frozenset(map(frozenset, groups)), "other"), size


def _replica_groups(rest: str, devices: int) -> list[list[int]]:
  iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
  if iota:
    shape, dims = _ints(iota[1]), _ints(iota[2])
    ids = np.arange(math.prod(dims)).reshape(dims)
    if iota[3]:
      ids = ids.transpose(_ints(iota[3]))
    return ids.reshape(shape).tolist()
  named = re.search(r"replica_groups=mesh\[(.*?)\]\s*\{(.*?)\}", rest)
  if named:
    sizes = dict(re.findall(r"'([\w.]+)'=(\d+)", named[1]))
    along = re.findall(r"'([\w.]+)'", named[2])
    ids = np.arange(math.prod(map(int, sizes.values()))).reshape(
      [int(size) for size in sizes.values()]
    )
    names = list(sizes)
    chosen = [names.index(name) for name in along]
    others = [i for i in range(ids.ndim) if i not in chosen]
    width = math.prod(ids.shape[i] for i in chosen)
    return ids.transpose(*others, *chosen).reshape(-1, width).tolist()
  listed = re.search(r"replica_groups=\{(\{.*?\})\}", rest)
  if listed:
    return [_ints(group) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
  return [list(range(devices))]


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  computations, entry, current = {}, "", None
  for line in text.splitlines():
    head = re.match(r"^(ENTRY )?%([\w.\-]+) \(.*\{\s*$", line)
    if head:
      current = computations.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif current is not None:
      found = _INSTRUCTION.match(line)
      if found:
        current.append(Instruction(*found.groups()))
  return computations, entry


def _trips(condition: list[Instruction]) -> int:
  """Of a loop that counts from zero: the bound that its condition compares with."""
  bounds = [
    int(match[1]) for one in condition if one.op == "constant"
    for match in [re.match(r"(\d+)\)", one.rest)] if match
  ]  # fmt: skip
  return max(bounds, default=1)


def _size(shape: str) -> int:
  return sum(
    _BYTES.get(kind, 4) * math.prod(_ints(dims)) for kind, dims, _ in _SHAPE.findall(shape)
  )


def _ints(text: str) -> list[int]:
  return [int(n) for n in text.split(",") if n]
