"""The Wan transformer of diffusers, tiny and with random weights; needs torch.

  python tests/parity/wan_transformer.py tests/models/reference

writes what tests/models/test_wan_weights.py compares with: folders of weights in
diffusers' layout, and the inputs, outputs and some gradients of two clips each.
Used by: test_wan_transformer.py.
"""

import pathlib
import sys

import diffusers
import numpy as np
import safetensors.numpy
import torch

_BASE = {
  "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12,
  "in_channels": 4, "out_channels": 4, "text_dim": 16, "freq_dim": 16, "ffn_dim": 32,
  "num_layers": 2,
}  # fmt: skip
# What Wan's published models are, in small.
SIZES = {
  "t2v": _BASE,  # Wan 2.1 text-to-video; each expert of Wan 2.2 A14B
  "ti2v": {**_BASE, "in_channels": 6, "out_channels": 6, "attention_head_dim": 16},
  "i2v": {**_BASE, "in_channels": 9, "image_dim": 8, "added_kv_proj_dim": 24},
  "deep": {**_BASE, "num_layers": 4, "num_attention_heads": 4, "attention_head_dim": 8},
}
# Latents (T, H, W), text tokens and noise level of each clip.
CLIPS = (((3, 4, 6), 5, 0.3), ((1, 8, 4), 9, 0.85))
IMAGE_TOKENS = 3
# diffusers takes everything before the last 512 tokens of its context for the image.
_CONTEXT = 512


def make(name: str) -> diffusers.WanTransformer3DModel:
  """A transformer whose every parameter is perturbed, so that none can be swapped."""
  torch.manual_seed(0)
  model = diffusers.WanTransformer3DModel(**SIZES[name]).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model


def inputs(name: str) -> list[dict]:
  """Of each clip: latents [T, H, W, C], text [m, D], t; condition and image for i2v."""
  rng, sizes = np.random.default_rng(1), SIZES[name]
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  clips = []
  for size, words, t in CLIPS:
    clip = {"latents": normal(*size, sizes["out_channels"]), "t": np.float32(t)}
    clip["text"] = normal(_CONTEXT if name == "i2v" else words, sizes["text_dim"])
    clip["weight"] = normal(*clip["latents"].shape)
    if name == "i2v":
      clip["condition"] = normal(*size, sizes["in_channels"] - sizes["out_channels"])
      clip["image"] = normal(IMAGE_TOKENS, sizes["image_dim"])
    if name == "ti2v":  # the first frame is known: its tokens are at noise level 0
      clip["known"] = np.arange(size[0]) == 0
    clips.append(clip)
  return clips


def run(model: diffusers.WanTransformer3DModel, clip: dict) -> torch.Tensor:
  """The output [T, H, W, C] for one clip alone."""
  x = np.concatenate([clip[k] for k in ("latents", "condition") if k in clip], -1)
  t = torch.tensor([1000.0 * clip["t"]])
  if "known" in clip:
    _, height, width = (n // p for n, p in zip(x.shape, model.config.patch_size))
    unknown = torch.tensor(~clip["known"]).repeat_interleave(height * width)
    t = t * unknown[None]
  image = torch.tensor(clip["image"])[None] if "image" in clip else None
  out = model(
    torch.tensor(x).permute(3, 0, 1, 2)[None], t, torch.tensor(clip["text"])[None],
    encoder_hidden_states_image=image,
  ).sample  # fmt: skip
  return out[0].permute(1, 2, 3, 0)


def gradients(model: diffusers.WanTransformer3DModel, clips: list[dict]) -> dict:
  """Of sum(weight * output) over the clips, by parameter."""
  model.zero_grad()
  for clip in clips:
    (run(model, clip) * torch.tensor(clip["weight"])).sum().backward()
  return {name: p.grad.numpy() for name, p in model.named_parameters()}


def main(folder: pathlib.Path) -> None:
  for name in ("t2v", "ti2v", "i2v"):
    model, clips = make(name), inputs(name)
    model.save_pretrained(folder / name)
    arrays = {f"gradient.{k}": v for k, v in gradients(model, clips).items()}
    for number, clip in enumerate(clips):
      with torch.no_grad():
        arrays[f"{number}.output"] = run(model, clip).numpy()
      arrays |= {f"{number}.{k}": np.asarray(v) for k, v in clip.items()}
    # Some of the gradients: the whole would be as large as the weights.
    kept = {
      k: np.ascontiguousarray(v) for k, v in arrays.items()
      if not k.startswith("gradient.") or "blocks.1." not in k
    }  # fmt: skip
    safetensors.numpy.save_file(kept, folder / name / "expected.st")


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
