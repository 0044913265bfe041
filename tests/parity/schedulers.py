"""The samplers of diffusers, on the velocity of tests/diffusion/trajectories.py.

  python -m tests.parity.schedulers tests/diffusion/reference

writes what tests/diffusion/test_samplers.py compares with.
Used by: test_samplers.py.
"""

import pathlib
import sys

import diffusers
import numpy as np
import torch

from tests.diffusion import trajectories

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2}
SCHEDULERS = {
  "euler": lambda shift: diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
  "flow_match_euler": lambda shift: diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
  # The scheduler_config.json of Wan.
  "unipc": lambda shift: diffusers.UniPCMultistepScheduler(
    **FLOW, flow_shift=shift, solver_type="bh2", predict_x0=True, lower_order_final=True,
    final_sigmas_type="zero",
  ),
  "dpm++": lambda shift: diffusers.DPMSolverMultistepScheduler(
    **FLOW, flow_shift=shift, algorithm_type="dpmsolver++", solver_type="midpoint"
  ),
}  # fmt: skip
# What pipelines pass that do not leave the grid to the scheduler.
SIGMAS = {"euler": lambda num_steps: {"sigmas": np.linspace(1, 1 / num_steps, num_steps)}}
COMMITTED = [(name, n, 3.0) for name in SCHEDULERS for n in (1, 2, 5)]


def theirs(name: str, num_steps: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
  """As `trajectories.ours`; the velocity is of the exact sigma, not of the timestep."""
  scheduler = SCHEDULERS[name](shift)
  scheduler.set_timesteps(num_steps, **SIGMAS.get(name, lambda num_steps: {})(num_steps))
  # Else it finds its place by the timestep, which may stand in its list twice.
  scheduler.set_begin_index(0)
  x = [torch.from_numpy(trajectories.noise())]
  for sigma, timestep in zip(scheduler.sigmas[:-1], scheduler.timesteps, strict=True):
    v = trajectories.velocity(x[-1], sigma)
    x.append(scheduler.step(v, timestep, x[-1]).prev_sample)
  return scheduler.sigmas.numpy(), torch.stack(x).numpy()


def main(out: pathlib.Path) -> None:
  arrays = {}
  for name, num_steps, shift in COMMITTED:
    times, x = theirs(name, num_steps, shift)
    arrays[f"{name}/{num_steps}/{shift}/times"] = times
    arrays[f"{name}/{num_steps}/{shift}/x"] = x
  out.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(out / "schedulers.npz", **arrays)


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
