"""Which tokens of a training clip are given: one model for every generation task.

A known token is clean (t = 0) and carries no loss. Drawn per clip: nothing (text to
video), the first latent frame (image to video), a run at the start or the end
(extension forward and backward), both ends (connecting, looping), every k-th frame
(interpolation), everything outside a box (in- and outpainting).

Shapes: B rows, L tokens, S segments.
Used by: objectives/diffusion.py.
"""

import jax
import jax.numpy as jnp

from sora_jax import api
from sora_jax.configlib import config
from sora_jax.nn import modulation


@config
class KnownMasks:
  """Relative weights of the tasks. The default trains plain text to video."""

  nothing: float = 1.0
  first_frame: float = 0.0
  first_frames: float = 0.0
  last_frames: float = 0.0
  both_ends: float = 0.0
  every_kth: float = 0.0
  region: float = 0.0

  def sample(self, keys_B: jax.Array, batch: api.PackedTokens) -> jax.Array:
    """Bool [B, L], true where the token is given; one draw per segment.

    Args:
      keys_B: a key per row.
      batch: positions [B, L, 3], sizes [B, S, 3] and segment_ids are read.
    """
    weights = jnp.asarray(
      [self.nothing, self.first_frame, self.first_frames, self.last_frames,
       self.both_ends, self.every_kth, self.region]
    )  # fmt: skip
    if self == KnownMasks():
      return jnp.zeros(batch.segment_ids.shape, bool)
    num_segments = batch.sizes.shape[1]

    def draw(key: jax.Array) -> jax.Array:
      task_key, amount_key = jax.random.split(key)
      task_S = jax.random.categorical(task_key, jnp.log(weights), shape=(num_segments,))
      amount_S7 = jax.random.uniform(amount_key, (num_segments, 7))
      return jnp.concatenate((task_S[:, None].astype(jnp.float32), amount_S7), -1)

    draws_BS8 = jax.vmap(draw)(keys_B)
    index_BL = jnp.maximum(batch.segment_ids - 1, 0)
    draws_BL8 = modulation.gather(draws_BS8, index_BL)
    sizes_BL3 = modulation.gather(jnp.asarray(batch.sizes, jnp.float32), index_BL)
    known_BL = _known(draws_BL8, jnp.asarray(batch.positions, jnp.float32), sizes_BL3)
    return known_BL & (batch.segment_ids > 0)


def _known(draw: jax.Array, position: jax.Array, size: jax.Array) -> jax.Array:
  """The masks of all tasks, of which draw[..., 0] picks one. Amounts are draw[1:]."""
  time, frames = position[..., 0], size[..., 0]
  # At least one frame is known and at least one is not; an image has nothing known.
  most = jnp.maximum(frames - 1, 0)
  count = jnp.minimum(1 + jnp.floor(draw[..., 1] * most), most)
  ends = jnp.minimum(1 + jnp.floor(draw[..., 1] * (most / 2)), jnp.floor(most / 2))
  stride = 2 + jnp.floor(draw[..., 1] * 3)
  low, high = jnp.sort(draw[..., 2:4], -1), jnp.sort(draw[..., 4:6], -1)
  fraction = (position[..., 1:] + 0.5) / jnp.maximum(size[..., 1:], 1.0)
  inside = (fraction >= jnp.stack((low[..., 0], high[..., 0]), -1)) & (
    fraction <= jnp.stack((low[..., 1], high[..., 1]), -1)
  )
  masks = (
    jnp.zeros_like(time, bool),
    (time < 1) & (frames > 1),
    time < count,
    time >= frames - count,
    (time < ends) | (time >= frames - ends),
    (time % stride == 0) & (frames > 1),
    ~jnp.all(inside, -1),
  )
  task = draw[..., :1].astype(jnp.int32)
  return jnp.take_along_axis(jnp.stack(masks, -1), task, -1)[..., 0]
