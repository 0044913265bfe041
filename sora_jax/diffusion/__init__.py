"""The maths between data (t = 0) and noise (t = 1).

  process.py    rectified flow, training times, size-dependent shift
  samplers.py   Euler, Heun, UniPC, DPM-Solver++, and the times that they visit
  guidance.py   classifier-free guidance, experts by noise level
"""
