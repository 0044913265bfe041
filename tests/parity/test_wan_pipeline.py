"""Diffusers' WanPipeline and our generator make the same latents from the same noise.

There and back: their folder becomes a workdir, the workdir becomes a folder of theirs.
"""

import diffusers
import numpy as np
import pytest
import torch

from sora_jax.diffusion import samplers
from sora_jax.export import sources, targets, verify
from sora_jax.generation import canvas, generator
from tests.parity import wan_transformer, wan_vae

STEPS, GUIDANCE, WORDS = 4, 3.0, 512
REQUEST = canvas.Request(prompt="a cat", frames=9, height=32, width=48, seed=3)
# Embeddings are given.
NO_TEXT = {"text_encoder": None, "tokenizer": None}


def embed(prompts: list[str]) -> list[np.ndarray]:
  """Stands for UMT5: a few vectors that depend on the prompt."""
  rngs = (np.random.default_rng(len(prompt)) for prompt in prompts)
  return [rng.standard_normal((5, 16)).astype(np.float32) for rng in rngs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A pipeline of diffusers with two experts, and one with one."""
  made = tmp_path_factory.mktemp("pipelines")
  torch.manual_seed(0)
  sizes = {**wan_transformer.SIZES["t2v"], "in_channels": 16, "out_channels": 16}
  experts = [diffusers.WanTransformer3DModel(**sizes) for _ in range(2)]
  parts = {
    "tokenizer": None, "text_encoder": None, "vae": wan_vae.make("wan21"),
    "scheduler": diffusers.UniPCMultistepScheduler(
      prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    ),
  }
  one = diffusers.WanPipeline(transformer=experts[0], **parts)
  one.save_pretrained(made / "one")
  two = diffusers.WanPipeline(
    transformer=experts[0], transformer_2=experts[1], boundary_ratio=0.7, **parts
  )
  two.save_pretrained(made / "two")
  return made


class ExactTimes(diffusers.UniPCMultistepScheduler):
  """Shows the model the times as they are; diffusers cuts them to a whole 1/1000.

  That alone moves the latents of these models by up to 0.09.
  """

  def set_timesteps(self, *args, **kwargs):
    super().set_timesteps(*args, **kwargs)
    self.timesteps = 1000.0 * self.sigmas[:-1]


def theirs(folder, scheduler: str) -> np.ndarray:
  """Latents [t, h, w, Z] of their pipeline from our noise."""
  pipeline = diffusers.WanPipeline.from_pretrained(folder, **NO_TEXT)
  if scheduler == "flow_match_euler":
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
  else:
    pipeline.scheduler = ExactTimes.from_config(pipeline.scheduler.config)
  size = (3, 2, 3)  # in patches
  noise = np.random.default_rng([REQUEST.seed, *size]).standard_normal((18, 64))
  noise = noise.reshape(*size, 2, 2, 16).transpose(5, 0, 1, 3, 2, 4).reshape(1, 16, 3, 4, 6)

  def padded(prompt: str) -> torch.Tensor:
    (found,) = embed([prompt])
    return torch.tensor(np.pad(found, ((0, WORDS - len(found)), (0, 0))))[None]

  return pipeline(
    prompt_embeds=padded(REQUEST.prompt), negative_prompt_embeds=padded(""),
    height=REQUEST.height, width=REQUEST.width, num_frames=REQUEST.frames,
    num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="latent",
    latents=torch.tensor(noise, dtype=torch.float32),
  ).frames[0].permute(1, 2, 3, 0).numpy()  # fmt: skip


def ours(workdir, scheduler: str, low_noise=None) -> np.ndarray:
  model = generator.Generator(workdir, text_encoder=embed, low_noise=low_noise)
  return model.generate_latents(
    [REQUEST], sampler=samplers.SAMPLERS[scheduler](num_steps=STEPS),
    guidance_scale=GUIDANCE, negative_prompt="",
  )[0]  # fmt: skip


SCHEDULERS = ["flow_match_euler", "unipc"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_same_latents_there_and_back(folder, tmp_path, scheduler):
  expected = theirs(folder / "one", scheduler)
  source = sources.open_source(folder / "one")
  targets.write("orbax", source, tmp_path / "run", targets.Options())
  found = ours(tmp_path / "run", scheduler)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(expected).max() > 1

  back = sources.open_source(tmp_path / "run")
  assert verify.compare(source, back) == len(source.params)
  targets.write("diffusers", back, tmp_path / "back", targets.Options(shard_bytes=50_000))
  assert len(list((tmp_path / "back" / "transformer").glob("*.safetensors"))) > 1
  np.testing.assert_allclose(theirs(tmp_path / "back", scheduler), expected, atol=1e-5)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_two_experts(folder, tmp_path, scheduler):
  experts = {
    name: sources.open_source(folder / "two", expert=name) for name in sources.EXPERTS
  }
  for name, source in experts.items():
    targets.write("orbax", source, tmp_path / name, targets.Options())
  expected = theirs(folder / "two", scheduler)
  found = ours(tmp_path / "high", scheduler, tmp_path / "low")
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(expected - theirs(folder / "one", scheduler)).max() > 0.01

  options = targets.Options(low_noise=experts["low"])
  targets.write("diffusers", experts["high"], tmp_path / "back", options)
  np.testing.assert_allclose(theirs(tmp_path / "back", scheduler), expected, atol=1e-5)


def test_videos_of_the_same_latents(folder, tmp_path):
  """Our decoder behind our sampler, theirs behind theirs."""
  targets.write(
    "orbax", sources.open_source(folder / "one"), tmp_path / "run", targets.Options()
  )
  model = generator.Generator(tmp_path / "run", text_encoder=embed)
  latents = theirs(folder / "one", "flow_match_euler")
  pipeline = diffusers.WanPipeline.from_pretrained(folder / "one", **NO_TEXT)
  mean, std = (
    torch.tensor(getattr(pipeline.vae.config, name)).view(1, -1, 1, 1, 1)
    for name in ("latents_mean", "latents_std")
  )
  with torch.no_grad():
    z = torch.tensor(latents).permute(3, 0, 1, 2)[None] * std + mean
    frames = pipeline.vae.decode(z).sample[0].permute(1, 2, 3, 0).numpy()
  expected = np.clip(np.round((frames + 1) * 127.5), 0, 255)
  assert np.abs(model.codec.decode([latents])[0] - expected).max() <= 1
