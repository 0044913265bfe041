"""Commands: python -m data_pipelines.jobs.NAME.

  render_shapes.py    the world -> a dataset of clips
  ingest.py           a user's folder -> a dataset of clips
  encode_latents.py   clips -> latents
  check_codec.py      PSNR and the checker's ceiling
  draw_packing.py     a picture of packed rows, and their fill
  write_prompts.py    prompts to sample
"""
