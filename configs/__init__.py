"""Composition roots: a config file builds the whole tree of a run.

  demo.py   the demo's autoencoder and denoiser
  t2v.py    text-to-video models from S to 30b
  wan.py    published Wan weights, trained further
  vae.py    video compression networks, by bottleneck, and Wan's
"""
