"""Captions embedded by published encoders: without padding, and each as if alone."""

import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
import tokenizers
import torch
import transformers

from data_pipelines.jobs import encode_latents, render_shapes
from data_pipelines.moving_shapes import MovingShapes
from sora_jax.diffusion import samplers
from sora_jax.generation import canvas, generator
from sora_jax.text import pretrained
from sora_jax.text import stored as stored_lib
from sora_jax.text import tokenizers as words
from sora_jax.training import loop
from tests.parity import wan_vae

CAPTIONS = ["a red circle", "a blue square moves left and up", "circle", "red " * 40]
SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
WORDS = ["<pad>", "<eos>", "<unk>", "a", "red", "blue", "circle", "square", "moves",
         "left", "and", "up"]  # fmt: skip


def make(kind: str, folder) -> transformers.PreTrainedModel:
  """A tiny encoder with random weights, and a tokenizer that ends with <eos>."""
  torch.manual_seed(0)
  common = {"vocab_size": len(WORDS), "pad_token_id": 0, "eos_token_id": 1}
  if kind == "clip":
    model = transformers.CLIPTextModel(transformers.CLIPTextConfig(
      hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
      max_position_embeddings=16, **common,
    ))  # fmt: skip
  elif kind == "t5":
    model = transformers.T5EncoderModel(transformers.T5Config(**SIZES, **common))
  else:
    model = transformers.UMT5EncoderModel(transformers.UMT5Config(**SIZES, **common))
  vocabulary = {word: i for i, word in enumerate(WORDS)}
  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
  )
  words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  words.post_processor = tokenizers.processors.TemplateProcessing(
    single="$A <eos>", special_tokens=[("<eos>", 1)]
  )
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
  ).save_pretrained(folder)
  model.eval().save_pretrained(folder)
  return model


@pytest.mark.parametrize("kind", ["t5", "umt5", "clip"])
def test_embeddings_are_those_of_the_caption_alone(kind, tmp_path):
  model = make(kind, tmp_path)
  encoder = pretrained.PretrainedText(tmp_path, max_tokens=12)
  found = encoder.encode(CAPTIONS)
  assert [len(x) for x in found] == [4, 8, 2, 12]
  for caption, embedding in zip(CAPTIONS[:3], found):
    ids = [WORDS.index(word) for word in caption.split()] + [1]
    with torch.no_grad():
      alone = model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(embedding, alone, atol=1e-5)


def test_a_dataset_has_them_without_padding(helpers, tmp_path):
  clips = render_shapes.render(
    tmp_path / "clips", MovingShapes(), num_train=4, num_test=1, num_heldout=1
  )
  wan_vae.make("wan21").save_pretrained(tmp_path / "codec")
  make("umt5", tmp_path / "text")
  text = pretrained.PretrainedText(tmp_path / "text")
  path = encode_latents.encode(
    clips, tmp_path / "codec", tmp_path / "latents", text=text
  )
  source = tfds.builder_from_directory(str(path)).as_data_source("train")
  for record in (source[i] for i in range(4)):
    (expected,) = text.encode([record["caption"].decode()])
    np.testing.assert_allclose(
      record["text"].astype(np.float32), expected, rtol=1e-2, atol=1e-2
    )

  # Training reads them, and sampling embeds its prompts by the same encoder.
  config = helpers.tiny_config(str(path), codec=str(tmp_path / "codec"), num_steps=1)
  stored = words.StoredEmbeddings(max_tokens=16)
  config.data.tokenizer, config.data.tokens_per_row = stored, 128
  config.objective.model.backbone.latent_channels = 16
  config.objective.model.backbone.text_dim = 32
  config.objective.model.text = stored_lib.StoredTextConfig(tokenizer=stored, width=32)
  loop.train(config, tmp_path / "run")
  wish = canvas.Request(prompt="a red circle", frames=5, height=32, width=32)
  model = generator.Generator(tmp_path / "run", text_encoder=str(tmp_path / "text"))
  (video,) = model.generate([wish], sampler=samplers.Euler(num_steps=1), guidance_scale=2)
  assert video.shape == (5, 32, 32, 3)
  # In a pipeline's folder the two lie apart.
  shutil.copytree(tmp_path / "text", tmp_path / "pipeline" / "text_encoder")
  shutil.copytree(tmp_path / "text", tmp_path / "pipeline" / "tokenizer")
  again = pretrained.PretrainedText(tmp_path / "pipeline")
  np.testing.assert_array_equal(again.encode(["a red"])[0], text.encode(["a red"])[0])
  with pytest.raises(ValueError, match="give the encoder's folder, --text_encoder"):
    generator.Generator(tmp_path / "run")


def test_what_is_not_an_encoder_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"no config.json of transformers"):
    pretrained.PretrainedText(tmp_path)
  (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
  with pytest.raises(ValueError, match="is a 'gpt2'; it must be one of"):
    pretrained.PretrainedText(tmp_path)
