"""Linear layers, norms and MLPs, with logical axis names on every parameter.

Parameters are float32; a layer computes in the dtype of its input, norms in float32.

Shapes: D width, I in, O out; leading dims are free.
Used by: every model. Next: `attention.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

Initializer = Callable[..., jax.Array]
fan_in = nnx.initializers.lecun_normal()
zeros = nnx.initializers.zeros_init()
ones = nnx.initializers.ones_init()

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
  "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
  "silu": jax.nn.silu,
  # Squared ReLU (arXiv:2109.08668): the cheapest of them on a CPU.
  "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


def param(
  rngs: nnx.Rngs, init: Initializer, shape: tuple[int, ...], axes: tuple[str | None, ...]
) -> nnx.Param:
  """A float32 parameter whose dims have logical names (see `sharding.RULES`)."""
  assert len(shape) == len(axes), (shape, axes)
  return nnx.Param(init(rngs.params(), shape, jnp.float32), logical_axes=axes)


@jax.custom_vjp
def project(x_I: jax.Array, kernel_IO: jax.Array) -> jax.Array:
  """x @ kernel over any leading dims.

  The gradients are written as matrix products whose results already lie as they are
  needed; left to itself, autodiff transposes the kernel's gradient, which on a CPU
  costs more than the product (2x on the whole backward pass).
  """
  return jax.lax.dot_general(x_I, kernel_IO, (((x_I.ndim - 1,), (0,)), ((), ())))


def _project_forward(x_I: jax.Array, kernel_IO: jax.Array):
  return project(x_I, kernel_IO), (x_I, kernel_IO)


def _project_backward(residuals, grad_O: jax.Array):
  x_I, kernel_IO = residuals
  leading = tuple(range(x_I.ndim - 1))
  grad_I = jax.lax.dot_general(grad_O, kernel_IO, (((grad_O.ndim - 1,), (1,)), ((), ())))
  grad_IO = jax.lax.dot_general(x_I, grad_O, ((leading, leading), ((), ())))
  return grad_I, grad_IO


project.defvjp(_project_forward, _project_backward)


class Linear(nnx.Module):
  """x_I -> x_O, with a bias."""

  def __init__(
    self, num_in: int, num_out: int, *, rngs: nnx.Rngs,
    axes: tuple[str | None, str | None] = ("embed", None), init: Initializer = fan_in,
  ):  # fmt: skip
    self.kernel = param(rngs, init, (num_in, num_out), axes)
    self.bias = param(rngs, zeros, (num_out,), axes[1:])

  def __call__(self, x_I: jax.Array) -> jax.Array:
    y_O = project(x_I, self.kernel[...].astype(x_I.dtype))
    return y_O + self.bias[...].astype(x_I.dtype)


class RMSNorm(nnx.Module):
  """x / rms(x) * scale over the last dim (arXiv:1910.07467)."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs, eps: float = 1e-6):
    self.scale = param(rngs, ones, (dim,), (None,))
    self.eps = eps

  def __call__(self, x_D: jax.Array) -> jax.Array:
    x = x_D.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + self.eps)
    return (x * inverse * self.scale[...]).astype(x_D.dtype)


def layer_norm(x_D: jax.Array, eps: float = 1e-6) -> jax.Array:
  """(x - mean) / std over the last dim, without parameters; float32 out."""
  x = x_D.astype(jnp.float32)
  mean = jnp.mean(x, -1, keepdims=True)
  variance = jnp.mean(jnp.square(x), -1, keepdims=True) - jnp.square(mean)
  return (x - mean) * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + eps)


class LayerNorm(nnx.Module):
  """`layer_norm` with a learned scale and bias."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs, eps: float = 1e-6):
    self.scale = param(rngs, ones, (dim,), (None,))
    self.bias = param(rngs, zeros, (dim,), (None,))
    self.eps = eps

  def __call__(self, x_D: jax.Array) -> jax.Array:
    y = layer_norm(x_D, self.eps) * self.scale[...] + self.bias[...]
    return y.astype(x_D.dtype)


class Mlp(nnx.Module):
  """Linear, activation, Linear."""

  def __init__(self, dim: int, hidden: int, *, activation: str, rngs: nnx.Rngs):
    self.up = Linear(dim, hidden, axes=("embed", "mlp"), rngs=rngs)
    self.down = Linear(hidden, dim, axes=("mlp", "embed"), rngs=rngs)
    self.activation = activation

  def __call__(self, x_D: jax.Array) -> jax.Array:
    return self.down(ACTIVATIONS[self.activation](self.up(x_D)))
