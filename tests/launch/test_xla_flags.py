"""The TPU compiler of every generation takes the flags that the launchers set."""

import os
import subprocess
import sys

import pytest

from launch import xla_flags

TOPOLOGIES = {
  "v5litepod-4": "v5e:2x2", "v5p-8": "v5p:2x2x1", "v6e-4": "v6e:2x2",
  "tpu7x-8": "tpu7x:2x2x1",
}  # fmt: skip
PROGRAM = """
import sys
from sora_jax.aot import topology
topology.use_compiler_only(sys.argv[1])
import jax
device = topology.devices_of(sys.argv[1], 1)[0]
place = jax.sharding.SingleDeviceSharding(device)
x = jax.ShapeDtypeStruct((128, 128), "float32", sharding=place)
jax.jit(lambda x: x @ x).lower(x).compile()
"""


def compiles(topology: str, flags: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, "-c", PROGRAM, topology], capture_output=True, text=True,
    env=os.environ | {"LIBTPU_INIT_ARGS": flags}, check=False,
  )  # fmt: skip


@pytest.mark.parametrize("accelerator", TOPOLOGIES)
def test_every_flag_is_known(accelerator):
  pytest.importorskip("libtpu", reason="the TPU compiler is for Linux on x86-64 only")
  done = compiles(TOPOLOGIES[accelerator], xla_flags.init_args(accelerator))
  assert done.returncode == 0, done.stderr[-500:]


def test_an_unknown_flag_would_be_noticed():
  pytest.importorskip("libtpu", reason="the TPU compiler is for Linux on x86-64 only")
  done = compiles("v5e:2x2", "--xla_tpu_no_such_flag=true")
  assert done.returncode != 0 and "xla_tpu_no_such_flag" in done.stderr


def test_every_flag_has_a_reason_and_can_be_left_out():
  for kind, flags in xla_flags.FLAGS.items():
    assert all(len(reason) > 20 for _, reason in flags.values()), kind
  words = xla_flags.init_args("v5p-8", without=["xla_enable_async_all_gather"])
  assert "xla_enable_async_all_gather" not in words and words.count("--") == 2
