"""A stack of identical blocks: one set of parameters with a leading layer dim.

Scanned, so that compile time does not grow with depth, or unrolled; the parameters and
the result are the same. Rematerialization trades compute for activation memory.

Used by: models/dit.py, text/encoder.py.
"""

from collections.abc import Callable

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from sora_jax import sharding

_policies = jax.checkpoint_policies

# What a layer's backward pass keeps of its forward pass. "attention" is the name that
# flash.py and ring.py give their results, "layer" that of a layer's input.
REMAT: dict[str, Callable | None] = {
  "none": None,  # everything
  "dots": _policies.dots_with_no_batch_dims_saveable,  # matmul results
  "attention": _policies.save_only_these_names("attention"),  # what costs the most
  "full": _policies.nothing_saveable,  # the layer's input only
  # The layer's input only, and that in the host's memory until it is needed.
  "offload": _policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[], names_which_can_be_offloaded=["layer"],
    offload_src="device", offload_dst="pinned_host",
  ),
}


class Stack(nnx.Module):
  """x -> block_n(... block_1(x, *args) ..., *args)."""

  def __init__(
    self, make_block: Callable[[nnx.Rngs], nnx.Module], num_layers: int, *,
    rngs: nnx.Rngs, scan: bool = True, remat: str = "none",
  ):  # fmt: skip
    if remat not in REMAT:
      raise ValueError(f"remat must be one of {sorted(REMAT)}, got {remat!r}")
    if num_layers < 1:
      raise ValueError(f"a stack needs at least one layer, got {num_layers}")

    @nnx.split_rngs(splits=num_layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(rngs: nnx.Rngs) -> nnx.Module:
      return make_block(rngs)

    self.layers = make(rngs)
    self.num_layers = num_layers
    self.scan = scan
    self.remat = remat

  def __call__(self, x: jax.Array, *args: jax.Array) -> jax.Array:
    graphdef, state = nnx.split(self.layers)

    def apply(x, layer):
      x = checkpoint_name(x, "layer")
      layer = jax.tree.map(_in_place, layer, is_leaf=_is_variable)
      return nnx.merge(graphdef, layer)(x, *args), None

    if self.remat != "none":
      apply = jax.checkpoint(apply, policy=REMAT[self.remat])
    if self.scan:
      return jax.lax.scan(apply, x, state)[0]
    for i in range(self.num_layers):
      x, _ = apply(x, jax.tree.map(lambda leaf, i=i: leaf[i], state))
    return x


def _is_variable(leaf) -> bool:
  return isinstance(leaf, nnx.Variable)


def _in_place(variable: nnx.Variable) -> nnx.Variable:
  """A layer's parameter, and so its gradient, laid out as it is kept.

  Otherwise gradients of a scanned layer may be summed whole on every device, and cut
  after the loop; like this they are scattered as they are summed.
  """
  axes = variable.get_metadata().get("logical_axes")
  if axes is None:
    return variable
  return variable.replace(sharding.constrain(variable.get_value(), *axes))
