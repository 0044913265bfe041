"""The video compression network.

  autoencoder.py    what all networks of the family share: frames <-> normalized latents
  factorized.py     a small one, fast on CPUs
  wan.py            the Wan autoencoder, 2.1 and 2.2
  wan_weights.py    its weights from and to diffusers' files
  bottlenecks.py    KL, VQ, FSQ
  causal.py         layers that are causal in time, and the stream of chunks
  folding.py        space and time into channels
  streaming.py      any length and size in bounded memory: chunks of time, tiles of space
  perceptual.py     distances that see more than pixels
  discriminator.py  a 3-D PatchGAN
"""
