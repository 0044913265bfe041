"""Where a patch stands in its clip: 3-D rotary and factorized absolute embeddings.

Rotary (arXiv:2104.09864), with Wan's axis split: of the H/2 rotation pairs of a head,
height and width get floor(H/6) each and time the rest. Pairs are interleaved,
(x[2i], x[2i+1]), as in Wan's complex form:
  y[2i]   = x[2i] cos(p w_i) - x[2i+1] sin(p w_i)
  y[2i+1] = x[2i] sin(p w_i) + x[2i+1] cos(p w_i),   w_i = 10000^(-2i/dim of the axis)

Rotary positions are relative. Factorized absolute ones (NaViT, arXiv:2307.06304) tell
in addition where in the frame a patch lies and how large the frame is.

Shapes: B rows, L tokens, N heads, H head dim, S segments, F features.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sora_jax.api import Array


def axis_dims(head_dim: int) -> tuple[int, int, int]:
  """How many of a head's dims rotate with (t, h, w). `head_dim` must be even."""
  if head_dim % 2:
    raise ValueError(f"head_dim must be even for rotary positions, got {head_dim}")
  spatial = 2 * (head_dim // 6)
  return head_dim - 2 * spatial, spatial, spatial


def rotary_table(
  positions_BL3: Array, head_dim: int, theta: float = 10_000.0
) -> tuple[jax.Array, jax.Array]:
  """(cos, sin), each float32 [B, L, H/2], for `rotate`."""
  angles = []
  for axis, dim in enumerate(axis_dims(head_dim)):
    frequency = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    position = jnp.asarray(positions_BL3)[..., axis, None].astype(jnp.float32)
    angles.append(position * frequency.astype(np.float32))
  angle = jnp.concatenate(angles, -1)
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BLNH: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotates interleaved pairs by the table's angles."""
  cos, sin = (jnp.repeat(t, 2, -1)[..., None, :].astype(x_BLNH.dtype) for t in table)
  even = np.arange(x_BLNH.shape[-1]) % 2 == 0
  # Shifts by one, because strided slices along the last dim are slow on TPUs.
  other = jnp.where(even, -jnp.roll(x_BLNH, -1, -1), jnp.roll(x_BLNH, 1, -1))
  return x_BLNH * cos + other * sin


def absolute_features(
  positions_BL3: Array, sizes_BL3: Array, num_frequencies: int
) -> jax.Array:
  """Fourier features of the fractional position and of the distance to the far edge.

  Returns float32 [B, L, F], F = 3 * (2 * num_frequencies + 2). The positions of a clip
  of n patches are (i + 1/2) / n on each axis; the two extra values per axis are i / 16
  and (n - 1 - i) / 16, which tell large frames from small ones.
  """
  position = jnp.asarray(positions_BL3).astype(jnp.float32)
  size = jnp.maximum(jnp.asarray(sizes_BL3).astype(jnp.float32), 1.0)
  fraction = (position + 0.5) / size
  # Half periods: frequency 1 goes from one edge to the other once.
  frequency = np.pi * 2.0 ** np.arange(num_frequencies, dtype=np.float32)
  angle = fraction[..., None] * frequency
  edges = jnp.stack((position, size - 1.0 - position), -1) / 16.0
  features = jnp.concatenate((jnp.cos(angle), jnp.sin(angle), edges), -1)
  return features.reshape(*features.shape[:-2], -1)
