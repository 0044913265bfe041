"""Integrating dx/dt = velocity from noise (t = 1) to data (t = 0).

The clips of a packed row may walk through different times (see `process.Shift`), so
times have one column per clip, and so have the weights that a sampler computes of them.
`expand` makes every weight 0 for a known token, which is at t = 0 throughout: it never
moves, and as logarithms are only taken of clips' times before the last, none is of 0.

In the ecosystem (diffusers 0.42, step for step in tests/parity/test_samplers.py):

  euler             HunyuanVideo, Flux, ...: FlowMatchEulerDiscreteScheduler with sigmas
                    from the pipeline, linspace(1, 1/N, N); an `EvenGrid`
  flow_match_euler  Stable Diffusion 3: the same scheduler left to itself; `FlowMatchGrid`
  unipc             Wan: UniPCMultistepScheduler, flow_prediction, flow sigmas
  dpm++             DPMSolverMultistepScheduler, dpmsolver++, flow_prediction, flow sigmas

The latter two show their models times cut to a whole 1/1000; ours sees the exact ones.

Shapes: B rows, L tokens, P values a patch, S segments; N steps.
Used by: generation/generator.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from sora_jax import api
from sora_jax.configlib import config

# [B, S] times, or weights, of clips -> [B, L, 1] those of their tokens, 0 if known.
Expand = Callable[[jax.Array], jax.Array]
# A time in [0, 1], or one of each clip [B, S] -> the shifted times [B, S] of the clips.
Shift = Callable[[jax.Array], jax.Array]
# Where log(1 - t) still is finite; the UniPC of diffusers starts here, too.
_LATEST = 1.0 - 1e-6


@config
class EvenGrid:
  """t_i = shift(first + (last - first) i / N) for i < N, and t_N = 0."""

  first: float = 1.0
  last: float = 0.0

  def __call__(self, num_steps: int, shift: Shift) -> jax.Array:
    """[N + 1, B, S]."""
    times = jnp.linspace(self.first, self.last, num_steps + 1)
    return jax.vmap(shift)(times.at[-1].set(0.0))


@config
class FlowMatchGrid:
  """t_i = shift(1 + (shift(lowest) - 1) i / (N - 1)) for i < N, and t_N = 0.

  The grid of diffusers' FlowMatchEulerDiscreteScheduler, which shifts its lowest time
  twice: once to find the end of the grid, once as a point of it. With one step it is
  `EvenGrid()`; with more its last step is the short one from near `lowest`.
  """

  lowest: float = 1e-3  # one over the number of times that it was trained at

  def __call__(self, num_steps: int, shift: Shift) -> jax.Array:
    """[N + 1, B, S]."""
    end_BS = shift(jnp.float32(self.lowest))
    times = jax.vmap(shift)(jnp.linspace(jnp.ones_like(end_BS), end_BS, num_steps))
    return jnp.concatenate((times, jnp.zeros_like(end_BS)[None]))


Grid = EvenGrid | FlowMatchGrid


class Sampler(Protocol):
  """A rule of one step, with what it remembers of those before."""

  num_steps: int
  grid: Grid

  def plan(self, times_NBS: jax.Array) -> api.PyTree:
    """N + 1 times -> what each step needs of them: arrays of N entries."""

  def start(self, noise_BLP: jax.Array) -> api.PyTree:
    """The carry before the first step."""

  def step(
    self, denoise: api.Denoiser, x_BLP, carry, now, expand: Expand
  ) -> tuple[jax.Array, api.PyTree]:
    """x and the carry after a step; `now` is its entry of the plan."""


class _OneStep:
  """What samplers that remember nothing share: a step needs its two ends."""

  __slots__ = ()

  def plan(self, times):
    return times[:-1], times[1:]

  def start(self, noise):
    del noise
    return ()


@config
class Euler(_OneStep):
  """First order, one evaluation a step: x' = x + dt v(x, t)."""

  num_steps: int = 20
  grid: Grid = dataclasses.field(default_factory=EvenGrid)

  def step(self, denoise: api.Denoiser, x, carry, now, expand: Expand):
    t, t_next = now
    return x + expand(t_next - t) * denoise(x, t), carry


@config
class Heun(_OneStep):
  """Second order, two evaluations a step: the mean of the slopes at both ends."""

  num_steps: int = 10
  grid: Grid = dataclasses.field(default_factory=EvenGrid)

  def step(self, denoise: api.Denoiser, x, carry, now, expand: Expand):
    t, t_next = now
    dt = expand(t_next - t)
    start = denoise(x, t)
    end = denoise(x + dt * start, t_next)
    return x + 0.5 * dt * (start + end), carry


def _multistep(times: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What the two samplers below share: they hold the predicted data m, not v, constant.

  With m = x - t v the flow is dx/dt = (x - m) / t, or in half the log-SNR,
  lambda = log((1 - t) / t), x' / t' = x / t + integral of e^lambda m dlambda. So

    m constant              x' = x + w (m - x)              w_i = 1 - t_{i+1} / t_i
    m linear in lambda      ... + p (m - m_previous)        p_i = w_i h_i / (2 h_{i-1})

  where h_i = lambda_{i+1} - lambda_i, and the mean of the line over the step is taken to
  be its middle (the "midpoint" of DPM-Solver++, the bh2 predictor of UniPC). The first
  step knows no m_previous and the last has no finite h: both are of first order.

  Args:
    times: [N + 1, B, S], falling to 0.

  Returns:
    w [N, B, S], h [N - 1, B, S], p [N, B, S].
  """
  w = 1.0 - times[1:] / times[:-1]
  h = jnp.diff(jnp.log1p(-times[:-1]) - jnp.log(times[:-1]), axis=0)
  inner = 0.5 * w[1:-1] * h[1:] / h[:-1]
  # N = 1 has no room for two zeros.
  p = jnp.pad(inner, ((1, 1), (0, 0), (0, 0)))[: len(w)]
  return w, h, p


@config
class DpmSolver:
  """DPM-Solver++(2M), midpoint: second order, one evaluation a step (arXiv:2211.01095).

    m_i = x_i - t_i v(x_i, t_i)
    x_{i+1} = x_i + w_i (m_i - x_i) + p_i (m_i - m_{i-1})          w, p: `_multistep`

  The carry is m_{i-1}.
  """

  num_steps: int = 20
  grid: Grid = dataclasses.field(
    default_factory=functools.partial(EvenGrid, first=0.999)
  )

  def plan(self, times):
    times = jnp.minimum(times, _LATEST)
    w, _, p = _multistep(times)
    return times[:-1], w, p

  def start(self, noise):
    return jnp.zeros_like(noise)

  def step(self, denoise: api.Denoiser, x, carry, now, expand: Expand):
    t, w, p = now
    m = x - expand(t) * denoise(x, t)
    return x + expand(w) * (m - x) + expand(p) * (m - carry), m


@config
class UniPC:
  """UniPC-2, B2(h): DPM-Solver++ whose every step the next one corrects, with the m that
  it evaluates anyway (arXiv:2302.04867).

    m_i = x_i - t_i v(x_i, t_i),  d_i = m_i - m_{i-1}
    y_i = b_i + f_i d_{i-1} + g_i d_i               the corrector, from t_{i-1} to t_i
    b_{i+1} = y_i + w_i (m_i - y_i)
    x_{i+1} = b_{i+1} + p_i d_i                     the predictor     w, p: `_multistep`

  f and g make the corrector exact for m quadratic in lambda: with h = h_{i-1},
  q = h_{i-2} / h_{i-1}, and r_1, r_2 the means of the part of the step that is done and
  of its square, weighted by e^lambda,

    f_i = w_{i-1} (r_1 - r_2) / (q (1 + q)),   g_i = w_{i-1} (r_1 - (r_1 - r_2) / (1 + q))
    r_1 = 1 / (1 - e^-h) - 1 / h,   r_2 = 1 / (1 - e^-h) - 2 r_1 / h

  The noise is not corrected, f_0 = g_0 = 0, and the correction of the first step knows
  one m less, f_1 = 0, g_1 = w_0 / 2. The carry is (b_i, m_{i-1}, d_{i-1}).
  """

  num_steps: int = 20
  grid: Grid = dataclasses.field(default_factory=functools.partial(EvenGrid, last=1e-3))

  def plan(self, times):
    times = jnp.minimum(times, _LATEST)
    w, h, p = _multistep(times)
    q, now = h[:-1] / h[1:], h[1:]
    whole = -1.0 / jnp.expm1(-now)
    r1 = whole - 1.0 / now
    r2 = whole - 2.0 * r1 / now
    back = (r1 - r2) / (1.0 + q)
    f = w[1:-1] * back / q
    g = w[1:-1] * (r1 - back)
    first, second = jnp.zeros_like(w[:1]), 0.5 * w[:1]
    f = jnp.concatenate((first, first, f))[: len(w)]
    g = jnp.concatenate((first, second, g))[: len(w)]
    return times[:-1], w, p, f, g

  def start(self, noise):
    return noise, jnp.zeros_like(noise), jnp.zeros_like(noise)

  def step(self, denoise: api.Denoiser, x, carry, now, expand: Expand):
    t, w, p, f, g = now
    base, m_before, d_before = carry
    m = x - expand(t) * denoise(x, t)
    d = m - m_before
    y = base + expand(f) * d_before + expand(g) * d
    base = y + expand(w) * (m - y)
    return base + expand(p) * d, (base, m, d)


SAMPLERS = {
  "dpm++": DpmSolver,
  "euler": Euler,
  "flow_match_euler": functools.partial(Euler, grid=FlowMatchGrid()),
  "heun": Heun,
  "unipc": UniPC,
}


def integrate(
  sampler: Sampler, denoise: api.Denoiser, noise: jax.Array, shift: Shift, expand: Expand
) -> jax.Array:
  """The data that the noise flows to.

  Args:
    sampler: the rule of one step.
    denoise: velocity of x at the times of its clips.
    noise: [B, L, P]; known tokens hold their data.
    shift: a time in [0, 1], or one of each clip [B, S] -> the times [B, S] of the
      clips; grows, and keeps 0 and 1.
    expand: times of clips -> times of tokens.
  """

  def step(state, now):
    return sampler.step(denoise, *state, now, expand), None

  plan = sampler.plan(sampler.grid(sampler.num_steps, shift))
  return jax.lax.scan(step, (noise, sampler.start(noise)), plan)[0][0]
