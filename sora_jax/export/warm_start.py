"""A run's first parameters from a model that stands already.

  --config.warm_start=...  in a config: warm_start=WarmStart(path="WAN/transformer")

Each parameter is, and is reported as, one of

  loaded       same name and shape
  deeper       a stack of layers with more layers than the source: the first ones are the
               source's, the new ones begin as the identity, so the function is the same
               (Net2Net, arXiv:1511.05641)
  inflated     a patch or a causal convolution with more frames than the source's: an
               image model becomes a video model (Video LDM, arXiv:2304.08818). Patches
               average over their frames; of a convolution, the present frame has all the
               weight
  initialized  the source has none, or one of another shape
  dropped      the source has it and the model does not

Used by: configs/wan.py, through training/loop.py.
"""

import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sora_jax import api
from sora_jax.configlib import config
from sora_jax.export import sources
from sora_jax.nn.skeleton import Arrays
from sora_jax.objectives import diffusion
from sora_jax.weights import tensors
from sora_jax.weights.tensors import Tensor

# The last matrices of a block's branches: zeros here make a block the identity.
_BRANCH_ENDS = re.compile(r"(attention\.out|mlp\.down)\.(kernel|bias)$")


@config
class WarmStart:
  """Where from."""

  path: str  # a workdir, a folder of safetensors, or one of diffusers
  kind: str = ""  # which of them; told from the folder where it is empty
  ema: bool = True  # the average over steps, where the source has one
  expert: str = "high"  # of a pipeline with two transformers
  strict: bool = False  # everything must be loaded, and nothing dropped

  def apply(
    self, objective: api.Objective, params: Arrays
  ) -> tuple[Arrays, list[str]]:
    """(parameters laid out as `params`, a line for each of them).

    Raises:
      ValueError: no model at `path`; nothing of it fits; or with `strict` something does
        not.
    """
    if not self.path:
      raise ValueError("warm_start.path is empty: give --config.warm_start.path=FOLDER")
    source = sources.open_source(self.path, self.kind, ema=self.ema, expert=self.expert)
    started, lines = {}, []
    for name, fresh in params.items():
      found = source.params.get(name)
      started[name], word = _start(objective, source, name, fresh, found)
      was = f" (source: {found.shape})" if found is not None and word != "loaded" else ""
      lines.append(f"{word:12} {name} {tuple(fresh.shape)}{was}")
    dropped = sorted(set(source.params) - set(params))
    lines += [f"{'dropped':12} {k} {source.params[k].shape}" for k in dropped]
    bad = [line for line in lines if line.split()[0] in ("initialized", "dropped")]
    if self.strict and bad:
      listed = "\n  ".join(bad)
      raise ValueError(f"warm_start.strict: {self.path} does not fit:\n  {listed}")
    if not any(line.split()[0] in ("loaded", "deeper", "inflated") for line in lines):
      raise ValueError(f"warm_start: nothing in {self.path} fits the model")
    return started, sorted(lines)


def _start(
  objective: api.Objective, source: sources.Source, name: str, fresh: jax.Array,
  found: Tensor | None,
) -> tuple[jax.Array, str]:  # fmt: skip
  if found is None:
    return fresh, "initialized"
  if found.shape == tuple(fresh.shape):
    return tensors.load(found, fresh), "loaded"
  layers = ".layers." in name
  if layers and found.shape[1:] == fresh.shape[1:] and found.shape[0] < fresh.shape[0]:
    return _deeper(name, fresh, found), "deeper"
  inflate = _inflation(objective, source, name, found.shape, tuple(fresh.shape))
  if inflate is not None:
    return tensors.load(found.mapped(inflate), fresh), "inflated"
  return fresh, "initialized"


def _deeper(name: str, fresh: jax.Array, found: Tensor) -> jax.Array:
  """The source's layers, then fresh ones that do nothing yet."""
  depth = found.shape[0]
  like = jax.ShapeDtypeStruct(found.shape, fresh.dtype, sharding=fresh.sharding)
  new = fresh[depth:]
  if _BRANCH_ENDS.search(name):
    new = jnp.zeros_like(new)
  return jax.device_put(
    jnp.concatenate((tensors.load(found, like), new)), fresh.sharding
  )


def _inflation(
  objective: api.Objective, source: sources.Source, name: str,
  old: tuple[int, ...], new: tuple[int, ...],
) -> Callable[[np.ndarray], np.ndarray] | None:  # fmt: skip
  """source's array -> the model's, where it only has more frames; else None."""
  if name.startswith("codec."):
    return _causal(old, new) if name.endswith("kernel") else None
  if not (isinstance(objective, diffusion.VideoDiffusion) and not source.is_codec):
    return None
  ours, theirs = (o.model.backbone.patch for o in (objective, source.objective))
  frames = ours[0]
  if frames == 1 or theirs != (1, *ours[1:]):
    return None
  # Values of a patch stand in (t, h, w, channel) order: frames follow one another.
  if name == "backbone.embed.kernel" and (old[0] * frames, old[1]) == new:
    return lambda x: np.concatenate([x] * frames) / frames
  if name.startswith("backbone.head.") and (*old[:-1], old[-1] * frames) == new:
    return lambda x: np.concatenate([x] * frames, -1)
  return None


def _causal(
  old: tuple[int, ...], new: tuple[int, ...]
) -> Callable[[np.ndarray], np.ndarray] | None:
  """[(1,) h, w, I, O] -> [t, h, w, I, O], all weight on the present frame."""
  plain = old[1:] if len(old) == 5 and old[0] == 1 else old
  if len(new) != 5 or plain != new[1:] or math.prod(old) == math.prod(new):
    return None
  past = ((new[0] - 1, 0), *((0, 0),) * 4)
  return lambda x: np.pad(x.reshape(1, *plain), past)
