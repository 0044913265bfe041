"""Measurements, as ratios from one run; results/ holds what was measured where.

  mixed_stream.py       packed, bucketed and padded batches of one stream
  step_vs_diffusers.py  a training step, ours against diffusers'
  packed_vs_padded.py   useful tokens/s, packed against padded
  codecs.py             PCA, KL, VQ and FSQ codecs in one table
  vae_speed.py          Wan's autoencoder, ours against diffusers'
  pods.py               what configs need of pods, compiled for TPUs that are not there
  vae_memory.py         its memory at 720p, compiled for a TPU that is not there
"""
