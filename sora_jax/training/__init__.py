"""THE training loop and what it needs.

  config.py       TrainConfig: a run as one tree
  loop.py         the loop, top to bottom
  step.py         (state, batch) -> (state, metrics)
  state.py        TrainState, born with its shardings
  optimizer.py    Muon, AdamW, schedules
  checkpoint.py   Orbax: state, moving average, data position
  preemption.py   SIGTERM: save and end, on all processes at one step
  feed.py         batches ahead, each with its data position
  metrics.py      progress bar, JSONL, TensorBoard
"""
