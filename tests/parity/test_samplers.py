"""Our samplers beside diffusers' schedulers, live: every time and every step."""

import numpy as np
import pytest

from tests.diffusion import trajectories
from tests.parity import schedulers


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("num_steps", [1, 2, 5, 20])
@pytest.mark.parametrize("name", list(schedulers.SCHEDULERS))
def test_step_for_step(name, num_steps, shift):
  times, x = schedulers.theirs(name, num_steps, shift)
  our_times, our_x = trajectories.ours(name, num_steps, shift)
  np.testing.assert_allclose(our_times, times, rtol=0, atol=5e-7)
  np.testing.assert_allclose(our_x, x, rtol=0, atol=1e-5)
