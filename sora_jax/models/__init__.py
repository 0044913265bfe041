"""Denoisers.

  dit.py             THE model file: a Wan-shaped DiT on packed rows
  text_to_video.py   a denoiser with its text encoder
"""
