"""The Wan video autoencoder, 2.1 and 2.2 (arXiv:2503.20314, section 4.1).

Residual blocks of causal 3-D convolutions, one attention over each frame in the middle,
resampling by two in space and, where asked, in time. Wan 2.2 adds shortcuts around its
levels that fold and average what the level resamples, and folds 2x2 pixels at the door.

Modules and parameters have the names of diffusers' `AutoencoderKLWan`, so that its
files load without a table of names (see wan_weights.py).

Shapes: B videos, T frames, H, W pixels; D channels of a level; Z latent channels.
Used by: configs/vae.py. Next: causal.py, autoencoder.py.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from sora_jax.configlib import config
from sora_jax.nn import layers
from sora_jax.vae import autoencoder
from sora_jax.vae.causal import CausalConv3D, Conv2D, Stream
from sora_jax.vae.folding import fold, reverse, unfold

# The reference divides by the norm itself; this keeps zeros finite.
_EPS = 1e-24
_QUERIES_AT_ONCE = 1024  # of a frame's attention; bounds its memory


@config
class WanConfig(autoencoder.AutoencoderConfig):
  """Sizes; the defaults are Wan 2.1's, 4x8x8 with 16 channels."""

  base_dim: int = 96
  decoder_base_dim: int | None = None  # as the encoder's
  dim_mult: tuple[int, ...] = (1, 2, 4, 4)
  num_res_blocks: int = 2
  temporal_downsample: tuple[bool, ...] = (False, True, True)
  residual: bool = False  # Wan 2.2's shortcuts around levels
  patch: int = 1  # pixels folded into channels, along each side

  @property
  def compression(self) -> tuple[int, int, int]:
    side = self.patch * 2 ** (len(self.dim_mult) - 1)
    return 2 ** sum(self.temporal_downsample), side, side

  def make(self, rngs: nnx.Rngs) -> "WanAutoencoder":
    """Raises ValueError where the levels do not fit together."""
    if len(self.temporal_downsample) != len(self.dim_mult) - 1:
      raise ValueError(
        f"temporal_downsample has {len(self.temporal_downsample)} entries; it needs one "
        f"fewer than dim_mult, which has {len(self.dim_mult)}"
      )
    return WanAutoencoder(self, rngs=rngs)


class ResidualBlock(nnx.Module):
  """shortcut(x) + conv(silu(norm(conv(silu(norm(x))))))."""

  def __init__(self, num_in: int, num_out: int, *, rngs: nnx.Rngs):
    self.norm1 = layers.RMSNorm(num_in, eps=_EPS, rngs=rngs)
    self.conv1 = CausalConv3D(num_in, num_out, rngs=rngs)
    self.norm2 = layers.RMSNorm(num_out, eps=_EPS, rngs=rngs)
    self.conv2 = CausalConv3D(num_out, num_out, rngs=rngs)
    if num_in != num_out:
      self.conv_shortcut = layers.Linear(num_in, num_out, rngs=rngs)
    self.same = num_in == num_out

  def __call__(self, x_BTHWD: jax.Array, stream: Stream) -> jax.Array:
    y = self.conv1(jax.nn.silu(self.norm1(x_BTHWD)), stream)
    y = self.conv2(jax.nn.silu(self.norm2(y)), stream)
    return y + (x_BTHWD if self.same else self.conv_shortcut(x_BTHWD))


class AttentionBlock(nnx.Module):
  """x + attention(norm(x)) of every frame to itself, with one head."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.norm = layers.RMSNorm(dim, eps=_EPS, rngs=rngs)
    self.to_qkv = layers.Linear(dim, 3 * dim, rngs=rngs)
    self.proj = layers.Linear(dim, dim, rngs=rngs)

  def __call__(self, x_BTHWD: jax.Array) -> jax.Array:
    b, t, h, w, d = x_BTHWD.shape
    qkv = self.to_qkv(self.norm(x_BTHWD)).reshape(b * t, h * w, 3 * d)
    y = jax.lax.map(lambda x: attend(*jnp.split(x, 3, axis=-1)), qkv)
    return x_BTHWD + self.proj(y.reshape(x_BTHWD.shape))


def attend(q_ND: jax.Array, k_ND: jax.Array, v_ND: jax.Array) -> jax.Array:
  """softmax(q k' / sqrt(D)) v, a block of queries at a time."""
  num, dim = q_ND.shape

  def one_block(q_ND):
    logits = jnp.einsum("nd,md->nm", q_ND, k_ND, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits * dim**-0.5, axis=-1)
    return jnp.einsum("nm,md->nd", weights.astype(v_ND.dtype), v_ND)

  if num <= _QUERIES_AT_ONCE:
    return one_block(q_ND)
  blocks = -(-num // _QUERIES_AT_ONCE)
  size = -(-num // blocks)
  padded = jnp.pad(q_ND, ((0, blocks * size - num), (0, 0)))
  out = jax.lax.map(one_block, padded.reshape(blocks, size, dim))
  return out.reshape(-1, dim)[:num]


class MiddleBlock(nnx.Module):
  """Residual block, attention, residual block."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.resnets = nnx.List([ResidualBlock(dim, dim, rngs=rngs) for _ in range(2)])
    self.attentions = nnx.List([AttentionBlock(dim, rngs=rngs)])

  def __call__(self, x_BTHWD: jax.Array, stream: Stream) -> jax.Array:
    x = self.attentions[0](self.resnets[0](x_BTHWD, stream))
    return self.resnets[1](x, stream)


class Downsample(nnx.Module):
  """Half the size in space, and in time if asked."""

  def __init__(self, dim: int, *, time: bool, rngs: nnx.Rngs):
    # The second of two, after the padding: the reference's name of it.
    after = ((0, 1), (0, 1))
    conv = Conv2D(dim, dim, stride=2, padding=after, rngs=rngs)
    self.resample = nnx.Dict({"1": conv})
    if time:
      self.time_conv = CausalConv3D(dim, dim, (3, 1, 1), rngs=rngs)
    self.time = time

  def __call__(self, x_BTHWD: jax.Array, stream: Stream) -> jax.Array:
    x = self.resample["1"](x_BTHWD)
    return self.time_conv.halve(x, stream) if self.time else x


class Upsample(nnx.Module):
  """Twice the size in time if asked, and in space (nearest, then a convolution)."""

  def __init__(self, dim: int, num_out: int, *, time: bool, rngs: nnx.Rngs):
    if time:
      self.time_conv = CausalConv3D(dim, 2 * dim, (3, 1, 1), rngs=rngs)
    self.resample = nnx.Dict({"1": Conv2D(dim, num_out, rngs=rngs)})
    self.time = time

  def __call__(self, x_BTHWD: jax.Array, stream: Stream) -> jax.Array:
    x = self.time_conv.double(x_BTHWD, stream) if self.time else x_BTHWD
    return self.resample["1"](jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3))


class DownLevel(nnx.Module):
  """Wan 2.2: blocks and a downsampling, plus a folded, averaged shortcut of them."""

  def __init__(
    self, num_in: int, num_out: int, blocks: int, *, time: bool, last: bool,
    rngs: nnx.Rngs,
  ):  # fmt: skip
    dims = [num_in] + [num_out] * blocks
    self.resnets = nnx.List(
      [ResidualBlock(i, o, rngs=rngs) for i, o in zip(dims[:-1], dims[1:])]
    )
    if not last:
      self.downsampler = Downsample(num_out, time=time, rngs=rngs)
    self.factors = (1, 1) if last else (2 if time else 1, 2)
    self.num_out, self.last = num_out, last

  def __call__(self, x_BTHWD: jax.Array, stream: Stream) -> jax.Array:
    y = x_BTHWD
    for block in self.resnets:
      y = block(y, stream)
    if not self.last:
      y = self.downsampler(y, stream)
    return y + average_down(x_BTHWD, self.num_out, *self.factors)


class UpLevel(nnx.Module):
  """Blocks and an upsampling; in Wan 2.2 plus a repeated, unfolded shortcut of them."""

  def __init__(
    self, num_in: int, num_out: int, blocks: int, *, time: bool, last: bool,
    residual: bool, rngs: nnx.Rngs,
  ):  # fmt: skip
    dims = [num_in] + [num_out] * (blocks + 1)
    self.resnets = nnx.List(
      [ResidualBlock(i, o, rngs=rngs) for i, o in zip(dims[:-1], dims[1:])]
    )
    if not last and residual:
      self.upsampler = Upsample(num_out, num_out, time=time, rngs=rngs)
    elif not last:
      self.upsamplers = nnx.List(
        [Upsample(num_out, num_out // 2, time=time, rngs=rngs)]
      )
    self.num_out, self.time, self.last, self.residual = num_out, time, last, residual

  def __call__(self, x_BTHWD: jax.Array, stream: Stream) -> jax.Array:
    y = x_BTHWD
    for block in self.resnets:
      y = block(y, stream)
    if self.last:
      return y
    if not self.residual:
      return self.upsamplers[0](y, stream)
    factors = 2 if self.time else 1, 2
    shortcut = repeat_up(x_BTHWD, self.num_out, *factors, first=stream.first)
    return self.upsampler(y, stream) + shortcut


def average_down(x_BTHWD: jax.Array, num_out: int, ft: int, fs: int) -> jax.Array:
  """Folds ft frames and fs x fs pixels into channels; means of groups of those."""
  x = jnp.pad(x_BTHWD, ((0, 0), (-x_BTHWD.shape[1] % ft, 0), (0, 0), (0, 0), (0, 0)))
  b, t, h, w, d = x.shape
  x = x.reshape(b, t // ft, ft, h // fs, fs, w // fs, fs, d)
  x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, t // ft, h // fs, w // fs, -1)
  return x.reshape(*x.shape[:-1], num_out, -1).mean(-1)


def repeat_up(
  x_BTHWD: jax.Array, num_out: int, ft: int, fs: int, *, first: bool
) -> jax.Array:
  """Repeats channels and unfolds them into ft frames and fs x fs pixels.

  Where the chunk is the first of a video, the frames before frame 0 are cut off.
  """
  b, t, h, w, d = x_BTHWD.shape
  x = jnp.repeat(x_BTHWD, num_out * ft * fs * fs // d, axis=-1)
  x = x.reshape(b, t, h, w, num_out, ft, fs, fs).transpose(0, 1, 5, 2, 6, 3, 7, 4)
  x = x.reshape(b, t * ft, h * fs, w * fs, num_out)
  return x[:, ft - 1 :] if first else x


class Encoder(nnx.Module):
  """Pixels -> what the bottleneck reads."""

  def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
    dims = [config.base_dim * m for m in (1, *config.dim_mult)]
    num_pixels, num_out = 3 * config.patch**2, config.bottleneck.num_inputs
    self.conv_in = CausalConv3D(num_pixels, dims[0], rngs=rngs)
    blocks = []
    for i, (num_in, dim) in enumerate(zip(dims[:-1], dims[1:])):
      last = i == len(dims) - 2
      time = not last and config.temporal_downsample[i]
      if config.residual:
        level = DownLevel(
          num_in, dim, config.num_res_blocks, time=time, last=last, rngs=rngs
        )
        blocks.append(level)
        continue
      for j in range(config.num_res_blocks):
        blocks.append(ResidualBlock(dim if j else num_in, dim, rngs=rngs))
      if not last:
        blocks.append(Downsample(dim, time=time, rngs=rngs))
    self.down_blocks = nnx.List(blocks)
    self.mid_block = MiddleBlock(dims[-1], rngs=rngs)
    self.norm_out = layers.RMSNorm(dims[-1], eps=_EPS, rngs=rngs)
    self.conv_out = CausalConv3D(dims[-1], num_out, rngs=rngs)

  def __call__(self, x_BTHWC: jax.Array, stream: Stream) -> jax.Array:
    x = self.conv_in(x_BTHWC, stream)
    for block in self.down_blocks:
      x = block(x, stream)
    x = self.mid_block(x, stream)
    return self.conv_out(jax.nn.silu(self.norm_out(x)), stream)


class Decoder(nnx.Module):
  """Latents -> pixels."""

  def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
    base_dim = config.decoder_base_dim or config.base_dim
    mult = config.dim_mult[::-1]
    dims = [base_dim * m for m in (mult[0], *mult)]
    time = (*config.temporal_downsample[::-1], False)
    self.conv_in = CausalConv3D(config.bottleneck.channels, dims[0], rngs=rngs)
    self.mid_block = MiddleBlock(dims[0], rngs=rngs)
    self.up_blocks = nnx.List([
      UpLevel(
        # Wan 2.1's upsampling has halved the channels of the level before.
        num_in // 2 if i and not config.residual else num_in, dim,
        config.num_res_blocks, time=time[i], last=i == len(mult) - 1,
        residual=config.residual, rngs=rngs,
      )
      for i, (num_in, dim) in enumerate(zip(dims[:-1], dims[1:]))
    ])  # fmt: skip
    self.norm_out = layers.RMSNorm(dims[-1], eps=_EPS, rngs=rngs)
    self.conv_out = CausalConv3D(dims[-1], 3 * config.patch**2, rngs=rngs)

  def __call__(self, z_BTHWZ: jax.Array, stream: Stream) -> jax.Array:
    x = self.mid_block(self.conv_in(z_BTHWZ, stream), stream)
    for block in self.up_blocks:
      x = block(x, stream)
    return self.conv_out(jax.nn.silu(self.norm_out(x)), stream)


class WanAutoencoder(autoencoder.Autoencoder):
  """Encoder, 1x1x1 convolutions around the bottleneck, decoder."""

  def __init__(self, config: WanConfig, *, rngs: nnx.Rngs):
    super().__init__(config, rngs=rngs)
    num_inputs, channels = config.bottleneck.num_inputs, config.bottleneck.channels
    self.encoder = Encoder(config, rngs=rngs)
    self.quant_conv = layers.Linear(num_inputs, num_inputs, rngs=rngs)
    self.post_quant_conv = layers.Linear(channels, channels, rngs=rngs)
    self.decoder = Decoder(config, rngs=rngs)

  def to_bottleneck(self, x_BTHWC: jax.Array, stream: Stream) -> jax.Array:
    p = self.config.patch
    # The reference's order of a patch's values is (channel, column, row).
    x = reverse(fold(x_BTHWC, p, p), (p, p, 3))
    return self.quant_conv(self.encoder(x, stream))

  def to_frames(self, z_BTHWZ: jax.Array, stream: Stream) -> jax.Array:
    p = self.config.patch
    x = self.decoder(self.post_quant_conv(z_BTHWZ), stream)
    return unfold(reverse(x, (3, p, p)), p, p)
