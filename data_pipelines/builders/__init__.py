"""TFDS builders, all in ArrayRecord.

  moving_shapes.py   rendered clips with their truth
  folder_clips.py    clips of a user's files
  latents.py         encoded clips
"""
