"""Composition roots: a config file builds the whole tree of a run.

  demo.py   the demo's autoencoder and denoiser
  vae.py    video compression networks, by bottleneck, and Wan's
"""
