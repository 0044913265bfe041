"""Denoisers.

  dit.py             THE model file: a Wan-shaped DiT on packed rows
  text_to_video.py   a denoiser with its text encoder
  wan_weights.py     weights of Wan's transformer, from and to diffusers' names
"""
