"""FLOPs of a program, counted from its jaxpr; and those that the mathematics needs.

XLA's own count sees a loop's body once and kernels not at all. Here a scan counts as
often as it runs, what is rematerialized counts again, and an attention kernel counts
the block pairs that are alive in a row of given clips. Matrix products and convolutions
only; a multiply and an add are two.

  model FLOPs of a forward pass = dense FLOPs of the real tokens
                                  + sum over layers and clips of 4 D s (s + m)
  for clips of s tokens and m text tokens: no padding, no dead pair. A training step is
  three of them, whatever is rematerialized.

Used by: report.py.
"""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from sora_jax.nn import live_blocks

Counts = collections.Counter  # "dense", "attention" -> FLOPs of all devices together


class Rows:
  """What the rows of a batch hold: every row the same clips and captions."""

  def __init__(
    self, clips: list[int], captions: list[int], *, length: int, text: int,
    per_device: int, width: int, depth: int,
  ):  # fmt: skip
    """Tokens of each clip and caption, of a row and its text; rows that a device has.

    `width` and `depth` are the model's.
    """
    self.clips, self.captions = np.asarray(clips), np.asarray(captions)
    self.length, self.text, self.per_device = length, text, per_device
    self.width, self.depth = width, depth

  @property
  def fill(self) -> float:
    return float(self.clips.sum() / self.length)

  def pairs(self, num_q: int, num_kv: int, block_q: int, block_kv: int) -> float:
    """Live block pairs of one kernel call on `num_q` queries and `num_kv` keys."""
    rows = self.per_device
    cross = num_kv == rows * _round_up(self.text, block_kv)
    whole = self._live(cross, block_q, block_kv)
    # On a ring a device holds a part of a row, and a turn meets a part of its keys.
    length_kv = self.text if cross else self.length
    part = (num_q / rows) / _round_up(self.length, block_q)
    part *= (num_kv / rows) / _round_up(length_kv, block_kv)
    return rows * whole * part

  def live_over_ideal(self, block: int) -> float:
    """Positions in live pairs of self-attention over the sum of s^2."""
    live = self._live(False, block, block) * block**2
    return round(live / float(np.sum(self.clips.astype(float) ** 2)), 3)

  @functools.cache  # noqa: B019 (a few calls)
  def _live(self, cross: bool, block_q: int, block_kv: int) -> int:
    q_ids = _ids(self.clips, _round_up(self.length, block_q))
    kv_ids = q_ids
    if cross:
      kv_ids = _ids(self.captions, _round_up(self.text, block_kv))
    elif block_q != block_kv:
      kv_ids = _ids(self.clips, _round_up(self.length, block_kv))
    return int(live_blocks.live(q_ids, kv_ids, block_q, block_kv).sum())


def ragged(count: int, total: int, least: int) -> list[int]:
  """`count` lengths of at least `least` that fill `total`, the same every time."""
  if count == 1:
    return [total]
  rng = np.random.default_rng(0)
  weights = rng.lognormal(0.0, 0.5, count)
  lengths = least + np.floor(weights / weights.sum() * (total - least * count))
  return [int(n) for n in lengths]


def forward_flops(forward: core.ClosedJaxpr, rows: Rows, num_rows: int) -> float:
  """What the mathematics of one forward pass needs; see the equation above."""
  dense = count(forward, rows, 1)["dense"] * rows.fill
  s, m = rows.clips.astype(float), rows.captions.astype(float)
  attention = rows.depth * 4 * rows.width * float(np.sum(s * (s + m)))
  return dense + num_rows * attention


def count(jaxpr: core.ClosedJaxpr | core.Jaxpr, rows: Rows, devices: int) -> Counts:
  """FLOPs of everything in a jaxpr."""
  total: Counts = collections.Counter()
  for eqn in _needed(getattr(jaxpr, "jaxpr", jaxpr)):
    name = eqn.primitive.name
    if name == "dot_general":
      total["dense"] += _dot(eqn)
    elif name == "conv_general_dilated":
      kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
      features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
      total["dense"] += 2 * math.prod(out) * math.prod(kernel) / features
    elif name == "pallas_call":
      total["attention"] += _kernel(eqn, rows)
    elif name == "cond":
      branches = [count(branch, rows, devices) for branch in eqn.params["branches"]]
      total += max(branches, key=lambda found: found.total())
    else:
      # Inside a shard_map shapes are those of one device.
      times = eqn.params["length"] if name == "scan" else 1
      times *= devices if name == "shard_map" else 1
      for inner in _inner(eqn):
        for kind, flops in count(inner, rows, devices).items():
          total[kind] += times * flops
  return total


def _needed(jaxpr: core.Jaxpr) -> list:
  """The equations that its results depend on; the compiler drops the others.

  Rematerialized bodies still hold what a policy has saved.
  """
  used = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
  kept = []
  for eqn in reversed(jaxpr.eqns):
    if eqn.effects or used & set(eqn.outvars):
      used |= {v for v in eqn.invars if isinstance(v, core.Var)}
      kept.append(eqn)
  return kept[::-1]


def _inner(eqn) -> list:
  values = []
  for value in eqn.params.values():
    values += value if isinstance(value, tuple | list) else [value]
  return [value for value in values if hasattr(value, "eqns") or hasattr(value, "jaxpr")]


def _dot(eqn) -> float:
  (contract, _), _ = eqn.params["dimension_numbers"]
  inner = math.prod(eqn.invars[0].aval.shape[d] for d in contract)
  return 2.0 * math.prod(eqn.outvars[0].aval.shape) * inner


def _kernel(eqn, rows: Rows) -> float:
  """A packed attention kernel: its products per pair, times heads, times live pairs."""
  name = str(eqn.params.get("name") or eqn.params.get("name_and_src_info"))
  blocks = re.search(r"packed_attention\w*_q(\d+)_kv(\d+)", name)
  assert blocks, f"no FLOPs known for the kernel {name}"
  block_q, block_kv = int(blocks[1]), int(blocks[2])
  q, k = [v.aval.shape for v in eqn.invars if v.aval.ndim == 3][:2]
  pairs = rows.pairs(q[1], k[1], block_q, block_kv)
  products = [e for e in eqn.params["jaxpr"].eqns if e.primitive.name == "dot_general"]
  per_pair = sum(_dot(product) for product in products)
  return per_pair * q[0] * pairs


def _ids(lengths: np.ndarray, total: int) -> jax.Array:
  ids = np.zeros(total, np.int32)
  numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)
  ids[: len(numbers)] = numbers
  return jnp.asarray(ids)[None]


def _round_up(n: int, block: int) -> int:
  return -(-n // block) * block
