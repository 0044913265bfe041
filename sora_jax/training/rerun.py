"""One step again, slowly: where do its numbers stop being finite?

The batch is the one that was stored when the update was left out; noise and times are
those of the step; the parameters are the newest checkpoint's. Every operation runs by
itself, outside of any compiled program, and the first one that gives NaN is named with
the lines of ours that led there.

Used by: sora_jax/train.py.
"""

import pathlib
import traceback

import jax
import numpy as np

from sora_jax import api, sharding
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training import checkpoint, step
from sora_jax.training.config import TrainConfig


def rerun(config: TrainConfig, workdir: pathlib.Path, number: int) -> list[str]:
  """What was found of step `number`, in lines.

  Raises:
    ValueError: its batch was not stored, or there is no checkpoint.
  """
  batch = load(workdir, number)
  skeleton = Skeleton.of(config.objective.make)
  params, other, saved = checkpoint.restore_model(
    workdir, sharding.on_one_device(skeleton.abstract), ema=False
  )
  gradient = step.in_parts(
    step.make_gradient(config.objective, skeleton), config.accumulate
  )
  key = step.key_of_step(config.seed, number - 1)
  lines = [f"step {number} with the parameters of checkpoint {saved}", *bad_inputs(batch)]
  (loss, _), grads = jax.jit(gradient)(params, other, batch, key)
  broken = [name for name, grad in grads.items() if not np.isfinite(grad).all()]
  if np.isfinite(loss) and not broken:
    return [
      *lines,
      f"all is finite, and the loss is {float(loss):.4f}: then it was the parameters that "
      "the step had",
    ]
  lines.append(
    f"loss {float(loss)}; gradients that are not finite: {len(broken)} of {len(grads)}"
    + (f", such as {broken[0]}" if broken else "")
  )
  try:
    with jax.disable_jit(), jax.debug_nans(True):
      gradient(params, other, batch, key)
  except FloatingPointError as error:
    lines += [str(error).splitlines()[0], *_places(error)]
  return lines


def load(workdir: pathlib.Path, number: int) -> api.PyTree:
  """The stored batch, with the rows of all processes.

  Raises:
    ValueError: there is none of that step.
  """
  folder = workdir / "skipped"
  files = sorted(folder.glob(f"{number}_*.npz"), key=lambda p: int(p.stem.split("_")[1]))
  if not files:
    stored = sorted({int(path.stem.split("_")[0]) for path in folder.glob("*.npz")})
    raise ValueError(f"no batch of step {number} in {folder}; there are those of {stored}")
  parts = [dict(np.load(file)) for file in files]
  leaves = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  if all(name.startswith(".") for name in leaves):
    return api.PackedTokens(**{name[1:]: leaf for name, leaf in leaves.items()})
  return {name[2:-2]: leaf for name, leaf in leaves.items()}


def bad_inputs(batch: api.PyTree) -> list[str]:
  """The parts of a batch that are not finite before anything is computed."""
  lines = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
      bad = ~np.isfinite(leaf.reshape(len(leaf), -1))
      name = jax.tree_util.keystr(path).strip(".[]'")
      rows = np.flatnonzero(bad.any(1)).tolist()
      lines.append(f"the batch has {bad.sum()} bad values of {name!r} itself, rows {rows}")
  return lines


def _places(error: FloatingPointError) -> list[str]:
  """The lines of ours that led there, innermost last."""
  frames = traceback.extract_tb(error.__traceback__)
  ours = [frame for frame in frames if "sora_jax" in pathlib.Path(frame.filename).parts]
  return [f"  {frame.filename}:{frame.lineno}  {frame.line}" for frame in ours]
