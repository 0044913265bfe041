"""THE training loop and what it needs.

  config.py       TrainConfig: a run as one tree
  loop.py         the loop, top to bottom
  step.py         (state, batch) -> (state, metrics)
  state.py        TrainState, born with its shardings
  optimizer.py    Muon, AdamW, schedules
  guard.py        updates that are left out, and what many of them lead to
  checkpoint.py   Orbax: state, moving average, data position; checked, or set aside
  seals.py        manifests of checkpoints, by all processes
  workdir.py      config.json: whose folder it is
  preemption.py   SIGTERM: save and end, on all processes at one step
  feed.py         batches ahead, each with its data position
  metrics.py      progress bar, JSONL, TensorBoard
  report.py       what becomes of each step, told where users look
  rerun.py        a step that was left out, again, to see where its numbers break
"""
