"""Programs for pods that are not there: compiled ahead of time, and read.

  topology.py   TPU topologies that are not there
  programs.py   a run's training or sampling step with abstract arguments
  flops.py      FLOPs, of the mathematics and of the program
  hlo.py        collectives by mesh axis, and bytes through HBM
  report.py     all of it for one mesh, as numbers and as a table
"""
