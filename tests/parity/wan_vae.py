"""The Wan autoencoder of diffusers, tiny and with random weights; needs torch.

  python tests/parity/wan_vae.py tests/vae/reference

writes what tests/vae/test_wan.py compares with: a folder of weights in diffusers' layout
and the network's inputs and outputs, for Wan 2.1 and Wan 2.2.
Used by: test_wan_vae.py.
"""

import pathlib
import sys

import diffusers
import safetensors.torch
import torch

# base_dim of the published ones: 96 (2.1), 160 and 256 in the decoder (2.2).
SIZES = {
  "wan21": {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 2},
  "wan22": {
    "base_dim": 4, "decoder_base_dim": 6, "z_dim": 48, "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1, "is_residual": True, "patch_size": 2, "in_channels": 12,
    "out_channels": 12, "scale_factor_spatial": 16,
  },
}  # fmt: skip
PUBLISHED = {
  "wan21": {"base_dim": 96},
  "wan22": {"base_dim": 160, "decoder_base_dim": 256, "num_res_blocks": 2},
}


def make(name: str, **changes) -> diffusers.AutoencoderKLWan:
  """A network whose every parameter is perturbed, so that none can be swapped."""
  torch.manual_seed(0)
  sizes = {**SIZES[name], **changes}
  channels = sizes["z_dim"]
  model = diffusers.AutoencoderKLWan(
    **sizes, temperal_downsample=[False, True, True],
    latents_mean=torch.linspace(-1, 1, channels).tolist(),
    latents_std=torch.linspace(0.5, 3, channels).tolist(),
  ).eval()  # fmt: skip
  with torch.no_grad():
    for parameter in model.parameters():
      scale = 0.1 * parameter.abs().mean().clamp(min=0.3)
      parameter.add_(scale * torch.randn_like(parameter))
  return model


def frames(count: int, side: int) -> torch.Tensor:
  """[1, 3, T, H, W] in [-1, 1]; wider than high."""
  generator = torch.Generator().manual_seed(count)
  return torch.rand(1, 3, count, side, side + 16, generator=generator) * 2 - 1


@torch.no_grad()
def run(model: diffusers.AutoencoderKLWan, video: torch.Tensor) -> dict[str, torch.Tensor]:
  """What ours should give: video, the posterior's moments, and the decoded mean."""
  moments = model._encode(video)
  mean = moments.chunk(2, dim=1)[0]
  return {"video": video, "moments": moments, "decoded": model.decode(mean).sample}


def main(out: pathlib.Path) -> None:
  for name in SIZES:
    model = make(name)
    model.save_pretrained(out / name)
    for kind, count in (("image", 1), ("clip", 9)):
      arrays = {k: v.contiguous() for k, v in run(model, frames(count, 32)).items()}
      safetensors.torch.save_file(arrays, out / name / f"{kind}.safetensors")


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
