"""Sora-class text-to-video training in JAX/Flax for TPU pods.

  api.py           PackedTokens, the one structure that reaches a model, and the protocols
  configlib.py     typed configs and their JSON
  chips.py         what devices can do
  sharding.py      logical axes -> mesh axes, in one table
  distributed.py   several processes
  peers.py         whether they are all still there
  nn/              layers and attention on packed rows
  diffusion/       rectified flow, samplers, guidance
  weights/         weights on disk, read and written piece by piece
  text/            tokenizers and the default text encoder
  vae/             the video compression network
  models/          the denoiser
  objectives/      what can be trained
  training/        THE loop, its state, step and checkpoints
  generation/      prompts -> canvas -> latents -> files
  evals/           the world of moving shapes, its checker, the report
  export/          models in and out: safetensors, diffusers, StableHLO, warm starts
  serving/         the web page
  aot/             programs for pods that are not there, compiled and read
  cli.py           how every command starts and fails
  train.py         verb: trains whatever a config describes
  sample.py        verb: videos from prompts
  serve.py         verb: a web page that makes videos
  evaluate.py      verb: marks sampled videos
  convert.py       verb: a model from one format to another
  compile.py       verb: what a config needs of a pod
  demo.py          verb: the whole path in one command
"""
