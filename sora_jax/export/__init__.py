"""Models in and out: runs, safetensors, diffusers, StableHLO.

  sources.py     a model in any format, opened: its config and its tensors, not read yet
  targets.py     a source written as safetensors, an Orbax workdir or diffusers' folders
  stablehlo.py   the denoise step and the decoder as programs that need none of our code
  examples.py    the example.py beside them
  verify.py      what was written, read again and compared
  card.py        the model card beside the weights
  warm_start.py  a run's first parameters, from any source, layer by layer
"""
