"""THE training loop: one for every objective, read from top to bottom.

  python -m sora_jax.train --config=configs/demo.py:dit --workdir=runs/mine

The stream of batches, the noise and the updates are functions of the config alone: a
run that is interrupted and resumed ends with the same bits as one that is not. SIGTERM
ends it with a checkpoint; a step whose gradient is not finite is left out and logged.

Used by: sora_jax/train.py.
"""

import pathlib
import time

import jax

from sora_jax import distributed, sharding
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training import checkpoint, feed, metrics, preemption, state, step
from sora_jax.training.config import TrainConfig


def train(config: TrainConfig, workdir: str | pathlib.Path) -> state.TrainState:
  """Trains until `config.num_steps`, resuming from the workdir's newest checkpoint."""
  workdir = pathlib.Path(workdir)
  checkpoint.claim_workdir(workdir, config)

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
      ),
      donate_argnums=0, in_shardings=(layout, sharding.batch(mesh)),
      out_shardings=(layout, None),
    )  # fmt: skip

    # ---- Resume ---------------------------------------------------------------------
    checkpoints = checkpoint.Checkpointer(
      workdir, every=config.checkpoint_every, keep=config.keep_checkpoints
    )
    batches = config.data.open(rows)
    first, train_state, data_state = checkpoints.restore_newest(train_state)
    if first:
      batches.set_state(data_state)
    elif config.warm_start is not None:
      train_state = state.warm_started(train_state, config, workdir)
    data_state = batches.get_state()
    log = metrics.MetricLog(
      workdir, first_step=first, wandb_project=config.wandb_project
    )

    # ---- Steps ----------------------------------------------------------------------
    stream = feed.Feed(batches)
    window, profiler = metrics.Window(), metrics.Profiler(workdir)
    bar = metrics.progress(
      config.num_steps, initial=first, desc=workdir.name, unit="step"
    )
    pending = None  # the metrics of the step before, read while this one runs
    done = first
    try:
      with preemption.Preemption() as ending:
        while done < config.num_steps:
          waiting = time.perf_counter()
          local, data_state = next(stream)
          waited = time.perf_counter() - waiting
          batch = distributed.to_global(mesh, local)
          train_state, values = train_step(train_state, batch)
          if pending is not None:
            _report(config, log, bar, window, *pending)
            profiler.step()
          if done % config.log_every == 0:
            profiler.look(done)
          done += 1
          pending = done, values, waited, getattr(local, "clip_ids", None)
          checkpoints.save(train_state, data_state, step=done)
          if ending.reached(done):
            break
        if pending is not None:
          _report(config, log, bar, window, *pending)
        checkpoints.save_last(train_state, data_state, step=done)
    finally:
      stream.close()
      profiler.close()
      bar.close()
      log.close()
      checkpoints.close()
  if done < config.num_steps and distributed.is_primary():
    print(f"ended by SIGTERM at step {done}, which is saved; the same command goes on")
  return train_state


def _report(config, log, bar, window, number: int, values, waited: float, clips) -> None:
  """Reads one step's metrics, and logs where the interval or the end says so."""
  values = {k: float(v) for k, v in jax.device_get(values).items()}
  if values["skipped"]:
    ids = [] if clips is None else [int(i) for i in clips.ravel() if i >= 0]
    log.skipped(number, values, ids)
  window.add(values, waited)
  bar.update(number - bar.n)
  if number % config.log_every and number != config.num_steps:
    return
  summary = window.close()
  log.write(number, summary)
  shown = {"loss": f"{summary['loss']:.4f}"}
  if "useful_tokens_per_s" in summary:
    shown["tokens/s"] = f"{summary['useful_tokens_per_s']:,.0f}"
  if "mfu" in summary:
    shown["MFU"] = f"{100 * summary['mfu']:.1f} %"
  if "psnr_db" in summary:
    shown["PSNR"] = f"{summary['psnr_db']:.1f} dB"
  bar.set_postfix(shown, refresh=False)
