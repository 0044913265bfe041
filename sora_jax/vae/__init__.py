"""The video compression network.

  autoencoder.py   causal spatiotemporal autoencoder (KL)
"""
