"""Weights on disk, read and written piece by piece; no model is ever whole in memory.

  tensors.py            Tensor: an array that is not in memory, and views of it
  safetensors_files.py  folders of safetensors, sharded, with their index
  orbax_files.py        the arrays of a checkpoint, by slices; and the way in
  folders.py            a folder appears whole or not at all; sha256 of all it holds
"""
