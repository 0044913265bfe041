"""Programs for pods that are not there: compiled ahead of time, and read.

  chips.py      kinds of TPUs and what they can do
  programs.py   a run's training or sampling step with abstract arguments
  flops.py      FLOPs, of the mathematics and of the program
  hlo.py        collectives by mesh axis, and bytes through HBM
  report.py     all of it for one mesh, as numbers and as a table
"""
