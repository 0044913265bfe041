"""All metadata of the project. Install from a clone: `pip install -e .[dev]`."""

import pathlib

import setuptools

setuptools.setup(
  name="sora_jax",
  version="0.1.0",
  description="Sora-class text-to-video training in JAX/Flax for TPU pods",
  long_description=pathlib.Path(__file__).with_name("README.md").read_text("utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(
    include=[f"{name}{rest}" for name in
             ("sora_jax", "data_pipelines", "configs", "launch") for rest in ("", ".*")]
  ),
  # A plain path entry, so that editors see it and new folders need no reinstall.
  package_dir={"": "."},
  install_requires=[
    "absl-py",
    "av>=14,<19",
    "chex",
    "flatbuffers",  # jax.export needs it, and does not ask for it
    "flax>=0.12.8",
    "grain>=0.2.18",
    "ImageHash",
    # TFDS needs it to find a builder's files, and does not ask for it.
    "importlib_resources",
    "jax>=0.10.2",
    "matplotlib",
    "ml-collections>=1.1.0",
    "ml_dtypes",
    "numpy>=2",
    "opencv-python-headless",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pillow",
    "pyarrow",
    "safetensors",
    "scenedetect-headless>=0.7",  # and OpenCV, neither of them asking for a display
    "scipy",
    "tensorboardX",
    "tensorstore",
    "tensorflow-datasets>=4.9.10",
    "array-record",
    "tqdm",
  ],
  extras_require={
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],  # as torch is built: one process holds one cuDNN
    "dev": ["pytest", "pytest-xdist", "ruff"],
    # To embed captions with published encoders. A CPU build of torch is enough.
    "text": ["torch", "transformers"],
    # For `make test-parity` only; torchvision is not used.
    "parity": ["pytest", "torch", "transformers", "diffusers", "accelerate"],
  },
)  # fmt: skip
