"""Flags of the TPU compiler per generation (LIBTPU_INIT_ARGS), each with its reason.

The compiler of every listed generation accepts them (tests/launch/test_xla_flags.py
compiles with them). What they gain is to be measured on the pod at hand; leave one out
with --without_flag.

Used by: worker.py, gke.py.
"""

# Collectives of FSDP and of context parallelism run beside the matmuls they serve.
_OVERLAP = {
  "xla_enable_async_all_gather": ("true", "all-gathers start early and finish late"),
  "xla_enable_async_collective_permute": (
    "true", "the ring's passing of keys and values hides behind attention"),
}  # fmt: skip

FLAGS: dict[str, dict[str, tuple[str, str]]] = {
  "v5e": {
    **_OVERLAP,
    # Newer compilers refuse these for other generations.
    "xla_tpu_enable_async_collective_fusion": (
      "true", "gathers of the next layer's weights run beside this layer's matmuls"),
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": (
      "true", "the same for all-gathers, which is what FSDP mostly does"),
    "xla_tpu_enable_async_collective_fusion_multiple_steps": (
      "true", "a collective may span several fusions, not only one"),
    "xla_tpu_overlap_compute_collective_tc": (
      "true", "matmuls and collectives share the tensor core's time"),
  },
  "v5p": {
    **_OVERLAP,
    "xla_tpu_megacore_fusion_allow_ags": (
      "false", "all-gathers stay out of two-core fusions, where they cannot overlap"),
  },
  "v6e": {
    **_OVERLAP,
    "xla_tpu_scoped_vmem_limit_kib": (
      "98304", "larger fusions: most of the 128 MiB of VMEM instead of the default 16"),
  },
  "tpu7x": {
    **_OVERLAP,
    "xla_tpu_scoped_vmem_limit_kib": (
      "49152", "larger fusions: most of the 64 MiB of VMEM"),
  },
}  # fmt: skip
_KINDS = {"v5litepod": "v5e", "v5e": "v5e", "v5p": "v5p", "v6e": "v6e", "tpu7x": "tpu7x"}


def generation(accelerator: str) -> str:
  """ "v5litepod-256" -> "v5e".

  Raises:
    SystemExit: an unknown kind.
  """
  kind = accelerator.split("-")[0]
  if kind not in _KINDS:
    raise SystemExit(f"error: --accelerator={accelerator} is none of {sorted(_KINDS)}-N")
  return _KINDS[kind]


def init_args(accelerator: str, without: list[str] = ()) -> str:
  """The value of LIBTPU_INIT_ARGS."""
  flags = FLAGS[generation(accelerator)]
  return " ".join(
    f"--{name}={value}" for name, (value, _) in flags.items() if name not in without
  )
