"""Our denoiser beside diffusers' Wan transformer, live: block by block, and gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from sora_jax.models import wan_weights
from sora_jax.nn import modulation, positions
from sora_jax.nn.skeleton import Skeleton
from sora_jax.weights import safetensors_files
from tests.models import wan_rows
from tests.parity import wan_transformer

NAMES = list(wan_transformer.SIZES)


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory):
  """(their model, our config, our parameters, clips)."""
  folder = tmp_path_factory.mktemp(request.param)
  theirs = wan_transformer.make(request.param)
  theirs.save_pretrained(folder, max_shard_size="60KB")  # several files and an index
  described = json.loads((folder / "config.json").read_text())
  config = wan_weights.config_from_reference(described)
  arrays = wan_rows.params(config, safetensors_files.read(folder))
  return theirs, config, arrays, wan_transformer.inputs(request.param)


def test_packed_as_one_by_one(pair):
  theirs, config, arrays, clips = pair
  for out, clip in zip(wan_rows.outputs(config, arrays, clips), clips):
    with torch.no_grad():
      expected = wan_transformer.run(theirs, clip).numpy()
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_gradients(pair):
  theirs, config, arrays, clips = pair
  ours = wan_rows.gradients(config, arrays, clips)
  expected = wan_transformer.gradients(theirs, clips)
  assert set(ours) == set(expected)
  for name, value in expected.items():
    scale = max(1.0, np.abs(value).max())
    np.testing.assert_allclose(np.asarray(ours[name]) / scale, value / scale, atol=1e-4)


def test_block_by_block(pair):
  theirs, config, arrays, clips = pair
  found = [[] for _ in theirs.blocks]
  for number, block in enumerate(theirs.blocks):
    block.register_forward_hook(lambda m, args, out, n=number: found[n].append(out[0]))
  with torch.no_grad():
    for clip in clips:
      wan_transformer.run(theirs, clip)

  batch, t_BS, spans = wan_rows.pack(config, clips)
  model = Skeleton.of(config.make).merge(arrays, {})
  level_BL = modulation.level_index(batch.segment_ids, batch.known, t_BS.shape[1])
  _, table = model.time(modulation.levels(jnp.asarray(t_BS)))
  rotary = positions.rotary_table(batch.positions, config.width // config.num_heads)
  x = model.embed(model._with_condition(jnp.asarray(batch.tokens), batch))
  text = jax.nn.gelu(model.text_in(jnp.asarray(batch.text)), approximate=True)
  text = model.text_out(text)
  image = model._image(batch, jnp.float32)
  graphdef, state = nnx.split(model.blocks.layers)
  for number, expected in enumerate(found):
    block = nnx.merge(graphdef, jax.tree.map(lambda leaf, n=number: leaf[n], state))
    x = block(
      x, table, level_BL, text, batch.segment_ids, batch.text_segment_ids, rotary, *image
    )
    for (span, _), one in zip(spans, expected):
      np.testing.assert_allclose(x[0, span], one, atol=1e-4, err_msg=f"block {number}")
