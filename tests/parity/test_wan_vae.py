"""Our Wan autoencoder beside diffusers' own, live: layer by layer, and at full size."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from sora_jax.nn.skeleton import Skeleton
from sora_jax.vae import wan_weights
from sora_jax.vae.causal import Stream
from sora_jax.vae.folding import fold, reverse
from tests.parity import wan_vae

NAMES = list(wan_vae.SIZES)


def channels_last(x: torch.Tensor) -> np.ndarray:
  return x.detach().permute(0, 2, 3, 4, 1).numpy()


def ours(model, folder):
  model.save_pretrained(folder)
  config, params, other = wan_weights.load(folder)
  return Skeleton.of(config.make).merge(
    {k: jnp.asarray(v) for k, v in params.items()},
    {k: jnp.asarray(v) for k, v in other.items()},
  )


def recorded(modules: dict[str, torch.nn.Module], call) -> dict[str, np.ndarray]:
  """The output of every module, its chunks of time put together again."""
  parts = {name: [] for name in modules}
  hooks = [
    module.register_forward_hook(
      lambda m, args, out, name=name: parts[name].append(channels_last(out))
    )
    for name, module in modules.items()
  ]
  call()
  for hook in hooks:
    hook.remove()
  return {name: np.concatenate(outputs, 1) for name, outputs in parts.items()}


def assert_close(name: str, value, reference: np.ndarray) -> None:
  error = np.abs(np.asarray(value) - reference).max()
  assert error <= 1e-4, f"{name}: {error}"


@pytest.mark.parametrize("name", NAMES)
def test_layer_by_layer(name, tmp_path):
  reference = wan_vae.make(name)
  model, video = ours(reference, tmp_path), wan_vae.frames(9, 32)

  encoder = reference.encoder
  blocks = {f"down_blocks.{i}": block for i, block in enumerate(encoder.down_blocks)}
  expected = recorded(
    {"conv_in": encoder.conv_in, **blocks, "mid_block": encoder.mid_block,
     "conv_out": encoder.conv_out},
    lambda: reference._encode(video),
  )  # fmt: skip
  stream, p = Stream(), model.config.patch
  x = reverse(fold(jnp.asarray(channels_last(video)), p, p), (p, p, 3))
  x = model.encoder.conv_in(x, stream)
  assert_close("conv_in", x, expected["conv_in"])
  for i, block in enumerate(model.encoder.down_blocks):
    x = block(x, stream)
    assert_close(f"down_blocks.{i}", x, expected[f"down_blocks.{i}"])
  x = model.encoder.mid_block(x, stream)
  assert_close("mid_block", x, expected["mid_block"])

  latents = torch.randn(1, model.config.latent_channels, 3, 4, 4)
  decoder = reference.decoder
  blocks = {f"up_blocks.{i}": block for i, block in enumerate(decoder.up_blocks)}
  expected = recorded(
    {"conv_in": decoder.conv_in, "mid_block": decoder.mid_block, **blocks,
     "conv_out": decoder.conv_out},
    lambda: reference._decode(latents),
  )  # fmt: skip
  stream = Stream()
  x = model.post_quant_conv(jnp.asarray(channels_last(latents)))
  x = model.decoder.conv_in(x, stream)
  assert_close("decoder.conv_in", x, expected["conv_in"])
  x = model.decoder.mid_block(x, stream)
  assert_close("decoder.mid_block", x, expected["mid_block"])
  for i, block in enumerate(model.decoder.up_blocks):
    x = block(x, stream)
    assert_close(f"up_blocks.{i}", x, expected[f"up_blocks.{i}"])


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("name", NAMES)
def test_end_to_end_at_full_size(name, count, tmp_path):
  """The published sizes, with random weights."""
  changes = {**wan_vae.PUBLISHED[name], "dim_mult": [1, 2, 4, 4]}
  reference = wan_vae.make(name, **changes)
  model = ours(reference, tmp_path)
  expected = wan_vae.run(reference, wan_vae.frames(count, 32))
  video, moments = (channels_last(expected[k]) for k in ("video", "moments"))
  assert_close("moments", model.to_bottleneck(jnp.asarray(video), Stream()), moments)
  mean = jnp.asarray(np.split(moments, 2, axis=-1)[0])
  frames = jnp.clip(model.to_frames(mean, Stream()), -1.0, 1.0)
  assert_close("decoded", frames, channels_last(expected["decoded"]))


@pytest.mark.parametrize("name", NAMES)
def test_what_we_save_diffusers_loads(name, tmp_path):
  """There and back without a change."""
  reference = wan_vae.make(name)
  reference.save_pretrained(tmp_path / "theirs")
  wan_weights.save(tmp_path / "ours", *wan_weights.load(tmp_path / "theirs"))
  back = type(reference).from_pretrained(tmp_path / "ours")
  for (key, a), b in zip(
    reference.state_dict().items(), back.state_dict().values(), strict=True
  ):
    assert torch.equal(a, b), key
  np.testing.assert_allclose(
    back.config.latents_std, reference.config.latents_std, rtol=1e-5
  )
