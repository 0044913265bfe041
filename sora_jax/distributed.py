"""Starting JAX on several processes, and moving rows between hosts and devices.

Used by: training/loop.py, the verbs, cli.py. Next: peers.py.
"""

import atexit
import json
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sora_jax import peers, sharding

# Set by the TPU runtime (one slice, several slices) and by SLURM on every worker.
_CLUSTER_VARIABLES = (
  "TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS", "SLURM_STEP_NODELIST"
)
# JAX's own patience with a silent process; `peers` has less, and names it.
_HEARTBEAT_SECONDS = 60
_peers: peers.Peers | None = None  # of a run of several processes


def initialize() -> None:
  """Joins the other processes of the run, where there are any.

  On a TPU pod or under SLURM/Kubernetes JAX finds the cluster by itself. Elsewhere
  `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name it. From here
  on a process that is lost ends the others.
  """
  global _peers
  if jax.distributed.is_initialized():
    return
  if "JAX_NUM_PROCESSES" in os.environ:
    jax.distributed.initialize(
      coordinator_address=os.environ["JAX_COORDINATOR_ADDRESS"],
      num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
      process_id=int(os.environ["JAX_PROCESS_ID"]),
      heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
  elif any(name in os.environ for name in _CLUSTER_VARIABLES):
    jax.distributed.initialize(heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
  if jax.distributed.is_initialized() and not is_alone():
    _peers = peers.Peers()
    atexit.register(_peers.leave)


def has_peers() -> bool:
  """Whether this process has joined others."""
  return _peers is not None


def fail(message: str, code: int) -> None:
  """Ends the other processes too, if there are any; comes back if there are none."""
  if _peers is not None:
    _peers.fail(message, code)


def wait_for_verdict() -> None:
  """After an error in JAX: ends this process if it is another one that was lost."""
  if _peers is not None:
    _peers.wait_for_verdict()


def is_primary() -> bool:
  """Whether this process does what only one may do (logs, reports)."""
  return jax.process_index() == 0


def is_alone() -> bool:
  """Whether this process is the whole run."""
  return jax.process_count() == 1


def local_rows(mesh: jax.sharding.Mesh, rows: int) -> range:
  """The rows of the global batch that this process feeds.

  Raises:
    ValueError: the batch does not divide over the mesh.
  """
  layout = sharding.named(mesh, ("batch",), (rows,))
  slices = layout.addressable_devices_indices_map((rows,)).values()
  mine = sorted({r for (s,) in slices for r in range(*s.indices(rows))})
  if mine != list(range(mine[0], mine[-1] + 1)):
    raise ValueError(f"mesh: this process owns rows {mine}, which are not contiguous")
  return range(mine[0], mine[-1] + 1)


def to_global(mesh: jax.sharding.Mesh, local: Any) -> Any:
  """Each process's rows (numpy) -> global arrays, rows over the batch axes."""
  layout = sharding.batch(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(layout, np.asarray(x)), local
  )


def from_everywhere(mesh: jax.sharding.Mesh, batch: Any) -> Any:
  """Rows (numpy) that every process has whole -> global arrays, over the batch axes."""
  layout = sharding.batch(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, layout, lambda index: x[index]), batch
  )


def to_everywhere(x: jax.Array) -> np.ndarray:
  """A global array, whole on every process."""
  if x.is_fully_addressable:
    return np.asarray(x)
  return multihost_utils.process_allgather(x, tiled=True)


def wait_for_all(where: str) -> None:
  """Until every process is there."""
  if not is_alone():
    multihost_utils.sync_global_devices(where)


def gather_states(states: dict[str, Any]) -> dict[str, Any]:
  """The union over processes of JSON-valued dicts with distinct keys."""
  if jax.process_count() == 1:
    return states
  text = np.frombuffer(json.dumps(states).encode(), np.uint8)
  longest = int(multihost_utils.process_allgather(np.int32(len(text))).max())
  padded = np.full(longest, ord(" "), np.uint8)
  padded[: len(text)] = text
  merged: dict[str, Any] = {}
  for row in multihost_utils.process_allgather(padded):
    merged.update(json.loads(bytes(row)))
  return merged
