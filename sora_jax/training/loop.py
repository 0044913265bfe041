"""THE training loop: one for every objective, read from top to bottom.

  python -m sora_jax.train --config=configs/demo.py:dit --workdir=runs/mine

The stream of batches, the noise and the updates are functions of the config alone: a
run that is interrupted and resumed ends with the same bits as one that is not. SIGTERM
ends it with a checkpoint; an update that is not finite, or spikes, is left out and told.

Used by: sora_jax/train.py.
"""

import pathlib
import time

import jax

from sora_jax import distributed, sharding
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training import checkpoint, feed, preemption, state, step
from sora_jax.training import report as report_lib
from sora_jax.training import workdir as workdir_lib
from sora_jax.training.config import TrainConfig


def train(config: TrainConfig, workdir: str | pathlib.Path) -> state.TrainState:
  """Trains until `config.num_steps`, resuming from the workdir's newest checkpoint."""
  workdir = pathlib.Path(workdir)
  config.guard.check()
  workdir_lib.claim(workdir, config)

  # ---- Mesh, model, optimizer -------------------------------------------------------
  mesh = config.mesh.make()
  rows = distributed.local_rows(mesh, config.data.rows)
  skeleton = Skeleton.of(config.objective.make)
  optimizer = config.optimizer.make(config.num_steps)

  with jax.set_mesh(mesh):
    train_state, layout = state.init_sharded(
      skeleton, optimizer, config.seed, mesh, config.ema_decay
    )
    train_step = jax.jit(
      step.make_train_step(
        config.objective, skeleton, optimizer,
        seed=config.seed, ema_decay=config.ema_decay, accumulate=config.accumulate,
        guard=config.guard,
      ),
      donate_argnums=0, in_shardings=(layout, sharding.batch(mesh)),
      out_shardings=(layout, None),
    )  # fmt: skip

    # ---- Resume ---------------------------------------------------------------------
    checkpoints = checkpoint.Checkpointer(
      workdir, every=config.checkpoint_every, keep=config.keep_checkpoints,
      keep_every=config.keep_every, verify=config.verify_checkpoints,
    )  # fmt: skip
    batches = config.data.open(rows)
    done, train_state, data_state = checkpoints.restore_newest(train_state)
    if done:
      batches.set_state(data_state)
    elif config.warm_start is not None:
      train_state = state.warm_started(train_state, config, workdir)
    data_state = batches.get_state()

    # ---- Steps ----------------------------------------------------------------------
    stream = feed.Feed(batches)
    report = report_lib.Report(config, workdir, batches, done)
    pending = None  # what the step before tells, read while this one runs
    left_out = int(train_state.guard["left_out"])  # updates in a row until `done`
    ended_well = False
    try:
      with preemption.Preemption() as ending:
        while done < config.num_steps:
          waiting = time.perf_counter()
          local, data_state = next(stream)
          waited = time.perf_counter() - waiting
          train_state, values = train_step(train_state, distributed.to_global(mesh, local))
          if pending is not None:
            left_out = report.step(*pending)
          if config.guard.rolls_back(left_out):
            # The data goes on from here, so what did it is skipped. Where that was tried
            # before, and no update was good since, further back.
            before = done - left_out + (report.rolled_to != done - left_out)
            bad, pending, left_out = done, None, 0
            done, train_state = checkpoints.roll_back(train_state, before=before)
            report.rolled_back(bad, done)
            continue
          done += 1
          pending = done, values, waited, local
          checkpoints.save(train_state, data_state, step=done)
          if ending.reached(done):
            break
        if pending is not None:
          report.step(*pending)
        checkpoints.save_last(train_state, data_state, step=done)
        ended_well = True
    finally:
      stream.close()
      report.close()
      # After an error the others may be anywhere: it is told before anybody waits.
      if ended_well or distributed.is_alone():
        checkpoints.close()
  if done < config.num_steps and distributed.is_primary():
    print(f"ended by SIGTERM at step {done}, which is saved; the same command goes on")
  return train_state
