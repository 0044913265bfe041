"""Layers that are causal in time, and the stream that carries them over chunks.

A video of any length goes through in chunks of time: every causal layer leaves the last
frames that it saw in the `Stream`, and finds them there with the next chunk. A whole
video is one chunk, so chunked and whole are the same code and the same values.

Before a video there are zeros. Frame 0 stands alone: resampling in time acts on the
frames after it, which makes an image a one-frame video (Wan, arXiv:2503.20314, 4.1).

Shapes: B videos, T frames, H, W pixels; I, O channels in and out.
Used by: factorized.py, wan.py. Driven by: streaming.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax.nn import layers

Frames = tuple[jax.Array, ...]


class Stream:
  """What the causal layers of one network saw last, in the order of their calls.

  Lives for one chunk: read `after` at its end, and give it to the next one.
  """

  def __init__(self, before: Frames | None = None):
    """`before` is `after` of the chunk before, None for the first of a video."""
    self._before = before
    self._after: list[jax.Array] = []

  @property
  def first(self) -> bool:
    """Whether this chunk begins with frame 0."""
    return self._before is None

  @property
  def after(self) -> Frames:
    return tuple(self._after)

  def extend(self, x_BTHWC: jax.Array, frames: int) -> jax.Array:
    """x with the `frames` frames before it; zeros where there are none."""
    if self._before is None:
      shape = (x_BTHWC.shape[0], frames, *x_BTHWC.shape[2:])
      before = jnp.zeros(shape, x_BTHWC.dtype)
    else:
      before = self._before[len(self._after)]
    extended = jnp.concatenate((before, x_BTHWC), axis=1)
    self._after.append(extended[:, extended.shape[1] - frames :])
    return extended


class Conv2D(nnx.Module):
  """A convolution within frames, [kh, kw, I, O]; zeros around, or `padding`."""

  def __init__(
    self, num_in: int, num_out: int, size: int = 3, *, rngs: nnx.Rngs, stride: int = 1,
    padding: str | tuple[tuple[int, int], tuple[int, int]] = "SAME",
  ):  # fmt: skip
    self.kernel = _kernel(rngs, (size, size, num_in, num_out), layers.fan_in)
    self.bias = layers.param(rngs, layers.zeros, (num_out,), (None,))
    self.stride, self.padding = stride, padding

  def __call__(self, x_BTHWI: jax.Array) -> jax.Array:
    y = _conv_frames(x_BTHWI, self.kernel[...], self.stride, self.padding)
    return y + self.bias[...].astype(y.dtype)


class CausalConv3D(nnx.Module):
  """A convolution over this frame and those before, [kt, kh, kw, I, O]."""

  def __init__(
    self, num_in: int, num_out: int, size: tuple[int, int, int] = (3, 3, 3), *,
    rngs: nnx.Rngs, init: layers.Initializer = layers.fan_in,
  ):  # fmt: skip
    self.kernel = _kernel(rngs, (*size, num_in, num_out), init)
    self.bias = layers.param(rngs, layers.zeros, (num_out,), (None,))

  def __call__(self, x_BTHWI: jax.Array, stream: Stream) -> jax.Array:
    y = self._causal(x_BTHWI, stream)
    return y + self.bias[...].astype(y.dtype)

  def halve(self, x_BTHWI: jax.Array, stream: Stream) -> jax.Array:
    """[B, 1 + 2k or 2k, ...] -> [B, 1 + k or k, ...]: stride 2 after frame 0.

    Output 1 + i sees the frames 2i, 2i + 1 and 2i + 2.
    """
    kernel = self.kernel[...]
    extended = stream.extend(x_BTHWI, 1)
    x = extended[:, 1:] if stream.first else extended
    if x.shape[1] == 1:
      return x
    taps = [x[:, i : x.shape[1] - 2 + i : 2] for i in range(3)]
    y = sum(_conv_frames(tap, kernel[i]) for i, tap in enumerate(taps))
    y = y + self.bias[...].astype(y.dtype)
    return jnp.concatenate((x[:, :1], y), axis=1) if stream.first else y

  def double(self, x_BTHWI: jax.Array, stream: Stream) -> jax.Array:
    """The way back of `halve`: two frames for each after frame 0, which stays."""
    x0, x = (x_BTHWI[:, :1], x_BTHWI[:, 1:]) if stream.first else (None, x_BTHWI)
    y = self._causal(x, stream)
    if not x.shape[1]:
      return x0
    y = y + self.bias[...].astype(y.dtype)
    b, t, h, w, _ = y.shape
    y = y.reshape(b, t, h, w, 2, -1).transpose(0, 1, 4, 2, 3, 5)
    y = y.reshape(b, 2 * t, h, w, -1)
    return y if x0 is None else jnp.concatenate((x0, y), axis=1)

  def _causal(self, x_BTHWI: jax.Array, stream: Stream) -> jax.Array:
    kernel = self.kernel[...]
    extended = stream.extend(x_BTHWI, kernel.shape[0] - 1)
    if stream.first:
      return conv_from_start(x_BTHWI, kernel)
    return conv_valid_in_time(extended, kernel)


def _kernel(rngs: nnx.Rngs, shape: tuple[int, ...], init: layers.Initializer):
  """Sharded along the wider of I and O: the other may be the three colors."""
  wide_in = shape[-2] >= shape[-1]
  axes = ("embed", None) if wide_in else (None, "embed")
  return layers.param(rngs, init, shape, (None,) * (len(shape) - 2) + axes)


def conv_valid_in_time(x_BTHWI: jax.Array, kernel: jax.Array) -> jax.Array:
  """Frames [B, T + kt - 1, ...] -> [B, T, ...]; space is padded with zeros.

  The sum of one convolution within frames per tap of time: CPUs run that three times
  as fast as a convolution in 3-D.
  """
  frames = x_BTHWI.shape[1] - kernel.shape[0] + 1
  taps = [x_BTHWI[:, i : i + frames] for i in range(kernel.shape[0])]
  return sum(_conv_frames(tap, kernel[i]) for i, tap in enumerate(taps))


def conv_from_start(x_BTHWI: jax.Array, kernel: jax.Array) -> jax.Array:
  """`conv_valid_in_time` of x behind kt - 1 frames of zeros, which cost nothing.

  An image takes a third of the work of a 3-tap kernel.
  """
  past, frames = kernel.shape[0] - 1, x_BTHWI.shape[1]
  y = _conv_frames(x_BTHWI, kernel[past])
  for back in range(1, min(past, frames - 1) + 1):
    late = _conv_frames(x_BTHWI[:, : frames - back], kernel[past - back])
    y = y + jnp.pad(late, ((0, 0), (back, 0), *[(0, 0)] * 3))
  return y


def _conv_frames(
  x_BTHWI: jax.Array, kernel_hwIO: jax.Array, stride: int = 1, padding="SAME"
) -> jax.Array:
  b, t = x_BTHWI.shape[:2]
  kernel = kernel_hwIO.astype(x_BTHWI.dtype)
  if kernel.shape[:2] == (1, 1):
    return layers.project(x_BTHWI, kernel[0, 0])
  y = jax.lax.conv_general_dilated(
    x_BTHWI.reshape(b * t, *x_BTHWI.shape[2:]), kernel, (stride, stride), padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip
  return y.reshape(b, t, *y.shape[1:])
