"""What can be trained: what is built, and what is minimized.

  diffusion.py     rectified flow with a noise level per token
  known_masks.py   which tokens are given: one model for every task
  autoencoder.py   reconstruction and KL
"""
