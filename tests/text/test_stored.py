"""Captions embedded beforehand: in the data, in the model, dropped."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipelines.builders import latents as latents_builder
from sora_jax.nn.skeleton import Skeleton
from sora_jax.text import stored, tokenizers

WIDTH = 16
EMBEDDINGS = tokenizers.StoredEmbeddings(max_tokens=6)


def embedding(index: int) -> np.ndarray:
  return np.random.default_rng(index).normal(size=(3 + index % 5, WIDTH))


@pytest.fixture(scope="module")
def config(helpers, tmp_path_factory):
  """A run on latents whose captions are embeddings."""
  folder = tmp_path_factory.mktemp("stored")

  def examples():
    for i in range(24):
      size = [(1, 2, 2), (2, 3, 4)][i % 2]
      yield {
        "index": i, "id": str(i), "caption": f"clip {i}", "fps": 8.0,
        "latents": np.full((*size, helpers.CHANNELS), i, np.float32),
        "video_size": np.int32([1, 1, 1]),
        "text": embedding(i).astype(jax.numpy.bfloat16),
      }  # fmt: skip

  latents_builder.LatentsWithText(splits={"train": examples}, data_dir=folder).write()
  config = helpers.tiny_config(str(folder / "latents_with_text" / "1.0.0"))
  config.data.tokenizer = EMBEDDINGS
  config.objective.model.text = stored.StoredTextConfig(tokenizer=EMBEDDINGS, width=WIDTH)
  return config


def test_they_are_packed_beside_their_clips(config):
  batch = next(config.data.open(range(8)))
  for r, s in zip(*np.nonzero(batch.clip_ids >= 0)):
    found = batch.text[r, batch.text_segment_ids[r] == s + 1]
    expected = embedding(batch.clip_ids[r, s])[:6].astype(jax.numpy.bfloat16)
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def model(config):
  """(skeleton, params that are nowhere zero, other)."""
  skeleton = Skeleton.of(config.objective.make)
  params, other = jax.jit(skeleton.init)(jax.random.key(0))
  key = jax.random.key(1)
  params = {k: 0.1 * jax.random.normal(key, v.shape) for k, v in params.items()}
  return skeleton, params, other


def test_the_null_embedding_is_learned(config, model):
  skeleton, params, other = model
  batch = next(config.data.open(range(8)))

  @jax.jit
  def gradient(params, dropped):
    def loss(params):
      own = batch.replace(text_dropped=dropped)
      net = skeleton.merge(params, other)
      return config.objective.velocity_loss(net, own, t, batch.tokens)[0]

    return jax.grad(loss)(params)["text.null"]

  t = np.full(batch.clip_ids.shape, 0.5, np.float32)
  dropped = np.ones(batch.clip_ids.shape, bool)
  assert np.abs(gradient(params, dropped)).max() > 0
  assert not np.abs(gradient(params, ~dropped)).any()


def test_a_dropped_caption_is_one_null_embedding(model, helpers):
  skeleton, params, other = model
  run = jax.jit(lambda *args: skeleton.merge(params, other)(*args))

  def velocity(captions, dropped):
    clips = [helpers.clip(i, (2, 3, 4), words=len(c)) for i, c in enumerate(captions)]
    batch, t, _ = helpers.pack_clips([clips])
    text = np.zeros((1, 24, WIDTH), np.float32)
    for s, caption in enumerate(captions):
      text[0, batch.text_segment_ids[0] == s + 1] = caption
    batch = batch.replace(text=text, text_dropped=batch.text_dropped | dropped)
    return np.asarray(run(batch.tokens, t, batch))

  one, other_caption = [embedding(0), embedding(1)], [embedding(0), embedding(4)]
  np.testing.assert_allclose(velocity(one, True), velocity(other_caption, True), atol=1e-5)
  assert np.abs(velocity(one, False) - velocity(other_caption, False)).max() > 1e-3


def test_what_does_not_fit_is_named(config, helpers, latents_path):
  wrong = dataclasses.replace(config.data, path=latents_path)
  with pytest.raises(ValueError, match="encode the clips with --text_encoder"):
    wrong.open(range(8))
  model = stored.StoredTextConfig(tokenizer=EMBEDDINGS, width=WIDTH).make
  text = Skeleton.of(model).merge(*Skeleton.of(model).init(jax.random.key(0)))
  with pytest.raises(ValueError, match="and the data brings token ids"):
    text(np.zeros((1, 4), np.int32), np.ones((1, 4), np.int32), None, np.zeros((1, 1)))
