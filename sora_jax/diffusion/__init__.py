"""The maths between data (t = 0) and noise (t = 1).

  process.py    rectified flow, training times, size-dependent shift
  samplers.py   Euler and Heun
  guidance.py   classifier-free guidance
"""
