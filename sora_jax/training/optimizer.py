"""Optimizers and their learning-rate schedules.

Muon (orthogonalized momentum, https://kellerjordan.github.io/posts/muon) for the
matrices inside the network and Adam for everything else; or AdamW for all
(arXiv:1711.05101). Both clip the global gradient norm, warm up linearly and decay by a
cosine.

Parameters are a flat dict with dotted names (nn/skeleton.py).
Used by: configs/, training/state.py.
"""

import optax
from optax import contrib

from sora_jax.configlib import config
from sora_jax.nn.skeleton import Arrays

# Weights that meet data or one-hot inputs rather than hidden features: Adam's.
_NOT_MUON = ("embed.", "head.", "place.", "encode_in.", "decode_out.")


@config
class Cosine:
  """Linear warm-up to `peak`, then a cosine down to `peak * final`."""

  peak: float
  warmup_steps: int = 50
  final: float = 0.05

  def make(self, num_steps: int) -> optax.Schedule:
    warmup = min(self.warmup_steps, max(1, num_steps // 10))
    return optax.warmup_cosine_decay_schedule(
      0.0, self.peak, warmup, max(num_steps, warmup + 1), self.peak * self.final
    )


@config
class AdamW:
  """AdamW; weight decay on matrices only."""

  lr: Cosine
  b1: float = 0.9
  b2: float = 0.99
  weight_decay: float = 0.0
  clip_norm: float = 1.0
  momentum_dtype: str = "float32"  # of the first moment; "bfloat16" saves its half

  def make(self, num_steps: int) -> optax.GradientTransformation:
    matrices = lambda params: {k: k.endswith("kernel") for k in params}  # noqa: E731
    return optax.chain(
      optax.clip_by_global_norm(self.clip_norm),
      optax.adamw(
        self.lr.make(num_steps), self.b1, self.b2,
        weight_decay=self.weight_decay, mask=matrices,
        mu_dtype=self.momentum_dtype,
      ),
    )  # fmt: skip


@config
class Muon:
  """Muon for hidden matrices and convolutions, Adam for the rest."""

  lr: Cosine
  adam_lr: Cosine
  momentum: float = 0.95
  adam_b2: float = 0.99
  weight_decay: float = 0.0
  clip_norm: float = 1.0

  def make(self, num_steps: int) -> optax.GradientTransformation:
    return optax.chain(
      optax.clip_by_global_norm(self.clip_norm),
      contrib.muon(
        self.lr.make(num_steps), beta=self.momentum, adam_b2=self.adam_b2,
        adam_learning_rate=self.adam_lr.make(num_steps),
        weight_decay=self.weight_decay, muon_weight_dimension_numbers=muon_dims,
      ),
    )  # fmt: skip


def muon_dims(params: Arrays) -> dict[str, contrib.MuonDimensionNumbers | None]:
  """For each parameter the dims of its matrix, or None where Adam updates it.

  A leading dim of stacked layers is a batch of matrices; a convolution kernel
  [h, w, in, out] is the matrix [h w in, out].
  """

  def dims(name: str, ndim: int) -> contrib.MuonDimensionNumbers | None:
    first = 1 if ".layers." in name else 0
    plain = name.startswith(_NOT_MUON) or any(f".{part}" in name for part in _NOT_MUON)
    if not name.endswith("kernel") or plain or ndim - first < 2:
      return None
    return contrib.MuonDimensionNumbers(tuple(range(first, ndim - 1)), (ndim - 1,))

  # Inside optax the parameters of the other optimizer are masked, without dims.
  return {name: dims(name, getattr(value, "ndim", 0)) for name, value in params.items()}
