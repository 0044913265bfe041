"""Measurements, as ratios from one run; results/ holds what was measured where.

  measuring.py          what measurements share: times in turn, children, files, plots
  mixed_stream.py       packed, bucketed and padded batches of one stream
  step_vs_diffusers.py  a training step, ours against diffusers'
  packed_vs_padded.py   useful tokens/s, packed against padded
  attention.py          live blocks against the masked square, counted and timed
  pipeline.py           useful tokens/s of the input pipeline, beside what a step takes
  checkpoints.py        the stall of saving, and the check on the way back
  devices.py            what partitioning a step costs, on 1 to 8 fake devices
  gpu.py                what one GPU shows: kernel, training step, autoencoder
  gpu_attention.py      its part about attention, beside XLA's and cuDNN's
  codecs.py             PCA, KL, VQ and FSQ codecs in one table
  vae_speed.py          Wan's autoencoder, ours against diffusers'
  pods.py               what configs need of pods, compiled for TPUs that are not there
  convert_memory.py     host memory of conversions, against the size of the model
  vae_memory.py         its memory at 720p, compiled for a TPU that is not there
"""
