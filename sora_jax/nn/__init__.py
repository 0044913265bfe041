"""Layers that know segments, and no mesh axis.

  patches.py      latents <-> spacetime patches
  packing.py      rows on the host, filled clip by clip
  positions.py    3-D rotary and absolute positions
  layers.py       linear, norms, MLP
  attention.py    attention within segments: the reference, and which kernel runs
  live_blocks.py  which blocks of a packed row need each other
  flash.py        attention that runs these only, with its gradients
  flash_tpu.py    its kernels for TPUs
  flash_gpu.py    and for GPUs
  flash_loops.py  its loops for CPUs
  ring.py         the same over a row in parts, around a ring of devices
  modulation.py   noise levels -> adaptive layer-norm values
  stack.py        identical blocks, scanned or unrolled
  skeleton.py     a model as flat dicts of arrays
"""
