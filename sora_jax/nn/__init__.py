"""Layers that know segments, and no mesh axis.

  patches.py      latents <-> spacetime patches
  packing.py      rows on the host, filled clip by clip
  positions.py    3-D rotary and absolute positions
  layers.py       linear, norms, MLP
  attention.py    attention within segments
  modulation.py   noise levels -> adaptive layer-norm values
  stack.py        identical blocks, scanned or unrolled
  skeleton.py     a model as flat dicts of arrays
"""
