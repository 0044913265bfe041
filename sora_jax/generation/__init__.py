"""From prompts to files.

  prompts.py       what users write -> requests
  canvas.py        requests of any size, packed into rows of noise
  generator.py     a trained model with its codec
  codec.py         encode and decode clips of any size
  video_files.py   mp4, png, contact sheets
"""
