"""The canvas and the generator: a sample does not depend on what it is packed with."""

import pathlib

import numpy as np
import pytest

from sora_jax import configlib
from sora_jax.diffusion import samplers
from sora_jax.generation import canvas, generator
from sora_jax.serving import studio
from sora_jax.training import loop


def request(**changes) -> canvas.Request:
  fields = {"prompt": "a red circle", "frames": 5, "height": 16, "width": 24, "seed": 3}
  return canvas.Request(**{**fields, **changes})


def test_sizes_are_rounded_to_the_grid_and_said():
  grid = (4, 8, 8)
  assert canvas.round_to_grid(request(), grid) == request()
  with pytest.warns(UserWarning, match=r"6 frames of 17x3 are rounded to 5 .* 16x8"):
    rounded = canvas.round_to_grid(request(frames=6, height=17, width=3), grid)
  assert (rounded.frames, rounded.height, rounded.width) == (5, 16, 8)
  with pytest.raises(ValueError, match="must be positive"):
    canvas.round_to_grid(request(frames=0), grid)


def test_the_canvas_holds_every_request_once(helpers):
  sizes = [(2, 3, 4), (1, 2, 2), (3, 5, 5), (5, 6, 5), (1, 1, 1)]
  requests = [request(prompt=f"number {i}", seed=i) for i in range(5)]
  batch, places = canvas.pack(
    requests, sizes, captions=[helpers.TOKENIZER.encode(r.prompt) for r in requests],
    token_dim=4, tokens_per_row=100,
  )  # fmt: skip
  assert batch.tokens.shape[1] == 256, "grows to the longest clip"
  taken = np.zeros(batch.segment_ids.shape, int)
  for i, place in enumerate(places):
    taken[place.row, place.span] += 1
    segment = batch.segment_ids[place.row, place.span]
    assert len(segment) == np.prod(sizes[i])
    assert len(set(segment.tolist())) == 1
    assert tuple(batch.sizes[place.row, segment[0] - 1]) == sizes[i]
    assert batch.clip_ids[place.row, segment[0] - 1] == i
    words = batch.text[place.row, batch.text_segment_ids[place.row] == segment[0]]
    np.testing.assert_array_equal(words, helpers.TOKENIZER.encode(f"number {i}"))
  np.testing.assert_array_equal(taken, batch.segment_ids > 0)


@pytest.fixture(scope="module")
def model(helpers, latents_path, tmp_path_factory):
  """A generator with a trained denoiser and an untrained codec."""
  codec_dir, workdir = (tmp_path_factory.mktemp(name) for name in ("codec", "model"))
  helpers.write_codec(codec_dir)
  config = helpers.tiny_config(latents_path, num_steps=6, codec=str(codec_dir))
  loop.train(config, workdir)
  return generator.Generator(workdir)


REQUESTS = [
  request(frames=5, height=16, width=24, seed=1),
  request(frames=1, height=32, width=16, seed=2, prompt="clip number 3"),
  request(frames=9, height=24, width=24, seed=3, prompt="another thing"),
]


def latents(model, requests, scale=2.0, sampler=None, tokens_per_row=128):
  return model.generate_latents(
    requests, sampler=sampler or samplers.Euler(num_steps=3), guidance_scale=scale,
    tokens_per_row=tokens_per_row, progress=None,
  )  # fmt: skip


@pytest.mark.parametrize(
  "sampler", [samplers.Euler(num_steps=3), samplers.UniPC(num_steps=3)], ids=str
)
def test_packed_samples_equal_samples_alone(model, sampler):
  together = latents(model, REQUESTS, sampler=sampler)
  for one, expected in zip(REQUESTS, together):
    alone = latents(model, [one], sampler=sampler)[0]
    np.testing.assert_allclose(alone, expected, atol=2e-4)
  reversed_order = latents(model, REQUESTS[::-1], sampler=sampler)[::-1]
  for a, b in zip(together, reversed_order):
    np.testing.assert_allclose(a, b, atol=2e-4)


def test_guidance_and_seeds_matter(model):
  first = latents(model, REQUESTS[:1])[0]
  assert np.abs(latents(model, REQUESTS[:1], scale=1.0)[0] - first).max() > 1e-5
  other = canvas.Request(**{**REQUESTS[0].__dict__, "seed": 9})
  assert np.abs(latents(model, [other])[0] - first).max() > 0.1


def test_videos_have_the_sizes_that_were_asked_for(model):
  videos = model.generate(
    REQUESTS, sampler=samplers.Euler(num_steps=1), guidance_scale=1.0
  )
  for one, video in zip(REQUESTS, videos):
    assert video.shape == (one.frames, one.height, one.width, 3)
    assert video.dtype == np.uint8


def test_the_web_page_makes_what_it_makes(model, tmp_path):
  desk = studio.Studio(model, tmp_path)
  desk.submit({"prompt": "a", "size": "16x24", "frames": 5, "steps": 1, "guidance": 1})
  job = desk.run_one()
  assert job.state == "done" and (tmp_path / job.file).stat().st_size > 100, job.error


def test_missing_parts_are_named(model, tmp_path):
  with pytest.raises(ValueError, match=r"no config\.json"):
    generator.Generator(tmp_path)
  text = (pathlib.Path(model.workdir) / "config.json").read_text()
  config = configlib.from_json(text)
  config.codec = ""
  (tmp_path / "config.json").write_text(configlib.to_json(config))
  with pytest.raises(ValueError, match="names no codec"):
    generator.Generator(tmp_path)
  with pytest.raises(ValueError, match="has no checkpoint"):
    generator.Generator(tmp_path, codec=str(model.codec.workdir))
