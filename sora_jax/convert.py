"""Converts a trained model from one format to another.

  python -m sora_jax.convert --source=RUN --to=safetensors --out=DIR --verify
  python -m sora_jax.convert --source=Wan2.1-T2V-1.3B-Diffusers --to=orbax --out=WORKDIR
  python -m sora_jax.convert --source=RUN --to=diffusers --dtype=bfloat16 --out=DIR
  python -m sora_jax.convert --source=RUN --to=stablehlo --out=DIR

Sources are workdirs, folders of safetensors that this command wrote, and diffusers'
folders of Wan: a pipeline, a transformer or an autoencoder. Weights go through memory
one tensor at a time. The folder gets a model card and the sha256 of every file, and
appears under its name only when it is complete.
"""

import pathlib

from absl import flags

from sora_jax import cli
from sora_jax.export import sources, targets, verify
from sora_jax.training import metrics

_SOURCE = flags.DEFINE_string("source", None, "Folder of the model.")
_FROM = flags.DEFINE_enum(
  "from", "", ["", *sources.OPENERS], "Its format; told from the folder if empty."
)
_TO = flags.DEFINE_enum("to", None, sorted(targets.TARGETS), "The format to write.")
_OUT = flags.DEFINE_string("out", None, "New folder.")
_EMA = flags.DEFINE_bool("ema", True, "The average over steps, where a run kept one.")
_DTYPE = flags.DEFINE_enum(
  "dtype", "", ["", *targets.DTYPES], "Of floating-point tensors; empty keeps it."
)
_SHARD_GB = flags.DEFINE_float("shard_gb", 5.0, "Of one file of safetensors, at most.")
_EXPERT = flags.DEFINE_enum(
  "expert", "high", sorted(sources.EXPERTS), "Of a pipeline with two transformers."
)
_LOW_NOISE = flags.DEFINE_string(
  "low_noise_source", "", "With --to=diffusers: the second expert, as transformer_2."
)
_CODEC = flags.DEFINE_string(
  "codec", "", "Folder of the codec, where it is not the one that the source names."
)
_TEXT_ENCODER = flags.DEFINE_string(
  "text_encoder", "", "With --to=diffusers: a folder whose text_encoder/ and tokenizer/ "
  "are copied, such as that of Wan's own pipeline.",
)  # fmt: skip
_LICENCE = flags.DEFINE_string("licence", "", "For the model card, such as apache-2.0.")
_VERIFY = flags.DEFINE_bool("verify", False, "Read it again; compare tensors and outputs.")


def main() -> None:
  source = _open(_SOURCE.value, _FROM.value)
  if _CODEC.value:
    source.codec = _CODEC.value
  low = _open(_LOW_NOISE.value, "") if _LOW_NOISE.value else None
  options = targets.Options(
    dtype=_DTYPE.value, shard_bytes=int(_SHARD_GB.value * 2**30), licence=_LICENCE.value,
    low_noise=low, text_encoder=_TEXT_ENCODER.value,
  )  # fmt: skip
  total = targets.size(source, options)
  with metrics.progress(total, desc=f"to {_TO.value}", unit="B") as bar:
    bar.unit_scale = True
    options.progress = bar.update
    targets.write(_TO.value, source, _OUT.value, options)
  out = pathlib.Path(_OUT.value)
  count = len(source.params) + len(source.other)
  print(f"{count} tensors of step {source.step} in {out}")
  if _VERIFY.value:
    again = sources.open_source(out)
    verify.compare(source, again, _DTYPE.value)
    worst = verify.check_outputs(source, again, out, _TO.value)
    print(f"verified: tensors equal bit for bit, outputs within {worst:.2g}")


def _open(path: str, kind: str) -> sources.Source:
  return sources.open_source(path, kind, ema=_EMA.value, expert=_EXPERT.value)


if __name__ == "__main__":
  flags.mark_flags_as_required(["source", "to", "out"])
  cli.run(main)
