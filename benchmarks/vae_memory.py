"""Memory of a video autoencoder at 720p, compiled for an absent TPU.

  pip install -e .[tpu]
  python -m benchmarks.vae_memory --out=benchmarks/results

The programs that encode and decode one chunk of time (sora_jax/vae/streaming.py) are
compiled ahead of time for one chip of --topology, and the memory that they need is read
off the compiled programs. A video of any length is the first chunk once and the next
chunk as often as it takes, so its peak is the larger of the two; beside it stands what
the whole video at once would need. Nothing runs on a TPU here, and no time is measured.
"""

import functools
import os

# Before JAX loads; `main` does the rest, which depends on the topology.
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks import measuring
from configs import vae
from sora_jax import cli
from sora_jax.aot import topology
from sora_jax.nn.skeleton import Skeleton
from sora_jax.training import metrics
from sora_jax.vae import streaming

GIB = 2**30


def memory(compiled) -> dict[str, float]:
  """GiB of one chip: what comes in, what goes out, and what lies in between."""
  stats = compiled.memory_analysis()
  parts = {
    "arguments": stats.argument_size_in_bytes,
    "outputs": stats.output_size_in_bytes,
    "temporary": stats.temp_size_in_bytes,
    "reused": stats.alias_size_in_bytes,  # outputs that lie where arguments did
  }
  peak = parts["arguments"] + parts["outputs"] + parts["temporary"] - parts["reused"]
  return {k: round(v / GIB, 3) for k, v in {**parts, "peak": peak}.items()}


def programs(config, height: int, width: int, latents: int, dtype: str, place):
  """name -> (function, abstract arguments) of the first and the next chunk."""
  skeleton = Skeleton.of(config.make)
  ct = config.compression[0]
  _, h, w = config.latent_size(1, height, width)

  def struct(shape, kind):
    return jax.ShapeDtypeStruct(shape, kind, sharding=place)

  def placed(tree):
    return jax.tree.map(lambda x: struct(x.shape, x.dtype), tree)

  arrays = placed(skeleton.abstract)
  encode = functools.partial(streaming.encode_chunk, skeleton, dtype)
  decode = functools.partial(streaming.decode_chunk, skeleton, dtype)
  frames = {
    "first": (1, 1 + ct * (latents - 1), height, width, 3),
    "next": (1, ct * latents, height, width, 3),
  }
  z = struct((1, latents, h, w, config.latent_channels), jnp.float32)
  found = {}
  for name, function, inputs in (
    ("encode", encode, {k: struct(v, jnp.uint8) for k, v in frames.items()}),
    ("decode", decode, {"first": z, "next": z}),
  ):
    first = (*arrays, inputs["first"], None)
    before = placed(jax.eval_shape(function, *first)[1])
    found[f"{name} first chunk"] = function, first
    found[f"{name} next chunk"] = function, (*arrays, inputs["next"], before)
  return found


def measure(config, height: int, width: int, latents: int, dtype: str, place) -> dict:
  """The memory of every program."""
  found = programs(config, height, width, latents, dtype, place)
  rows = {}
  with metrics.progress(len(found), desc="compile", unit="program") as bar:
    for name, (function, arguments) in found.items():
      jitted = jax.jit(function, donate_argnums=3)
      try:
        rows[name] = memory(jitted.lower(*arguments).compile())
      except jax.errors.JaxRuntimeError as error:
        rows[name] = {"error": str(error).splitlines()[0][:300]}
      bar.update()
  return rows


def main() -> None:
  topology.use_compiler_only(_TOPOLOGY.value)
  place = jax.sharding.SingleDeviceSharding(topology.devices_of(_TOPOLOGY.value, 1)[0])
  config = vae.WAN[_MODEL.value]
  height, width = _SIZE.value
  size = int(height), int(width)
  chunk = measure(config, *size, _LATENTS.value, _DTYPE.value, place)
  ct, fps = config.compression[0], 24
  peaks = {
    kind: max(chunk[f"{kind} {part} chunk"].get("peak", float("inf"))
              for part in ("first", "next"))
    for kind in ("encode", "decode")
  }  # fmt: skip
  table = []
  for seconds in (1, 5, 20, 60):
    latents = -(-seconds * fps // ct) + 1
    row = {"seconds": seconds, "frames": 1 + ct * (latents - 1), **{
      f"{kind}_peak_gib": peak for kind, peak in peaks.items()
    }}  # fmt: skip
    if seconds in (1, 5):
      whole = programs(config, *size, latents, _DTYPE.value, place)
      for kind in ("encode", "decode"):
        function, arguments = whole[f"{kind} first chunk"]
        try:
          compiled = jax.jit(function).lower(*arguments).compile()
          row[f"{kind}_whole_gib"] = memory(compiled)["peak"]
        except jax.errors.JaxRuntimeError as error:
          row[f"{kind}_whole_gib"] = str(error).splitlines()[0][:200]
    table.append(row)
  result = {
    "model": _MODEL.value, "topology": _TOPOLOGY.value, "jax": jax.__version__,
    "size": f"{size[0]}x{size[1]}", "fps": fps, "latents_per_chunk": _LATENTS.value,
    "dtype": _DTYPE.value, "chunks": chunk, "videos": table,
  }  # fmt: skip
  print(measuring.write(f"vae_memory_{_MODEL.value}", _OUT.value, result).read_text())


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "Folder for vae_memory_MODEL.json.")
  _MODEL = flags.DEFINE_enum("model", "wan21", sorted(vae.WAN), "Of configs/vae.py.")
  _TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "As JAX names it.")
  _SIZE = flags.DEFINE_list("size", ["720", "1280"], "Height, width.")
  _LATENTS = flags.DEFINE_integer("latents", 1, "Along time, of a chunk.")
  _DTYPE = flags.DEFINE_enum("dtype", "bfloat16", sorted(streaming.DTYPES), "Compute.")
  flags.mark_flags_as_required(["out"])
  cli.run(main)
