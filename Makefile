# `make demo` and `make test` do all the set-up on a fresh machine: python3 >= 3.11 with
# venv is enough. The second call reuses what stands.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# The compiler for TPUs that are not there: tests compile with it. Linux on x86-64 only.
TESTED := $(VENV)/.ready-for-tests
comma := ,
COMPILER := $(if $(findstring Linux x86_64,$(shell uname -sm)),$(comma)tpu)
PARITY := $(VENV)-parity
GPU := $(VENV)-gpu
AUDIT := $(VENV)-audit
# One worker per core, at most four; each holds a model or two.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() or 1))")

.PHONY: demo test test-parity lint check audit bench bench-gpu clean

demo: $(READY)
	$(PY) -m sora_jax.demo --workdir=runs/demo

test: $(TESTED)
	$(PY) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Ours beside diffusers', on the same weights; installs torch into an environment apart.
test-parity: $(PARITY)/.ready
	$(PARITY)/bin/python -m pytest tests/parity

lint: $(READY)
	$(VENV)/bin/ruff check .

# Whether what is installed fits together; needs no network.
check: $(TESTED)
	$(PY) -m pip check

# Known vulnerabilities of the pinned versions. Asks a public database of them about each,
# so it is for people to run, not for CI.
audit: $(AUDIT)/.ready
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

bench: $(READY)
	$(PY) -m benchmarks.packed_vs_padded --out=benchmarks/results
	$(PY) -m benchmarks.mixed_stream --out=benchmarks/results
	$(PY) -m benchmarks.attention --out=benchmarks/results
	$(PY) -m benchmarks.pipeline --out=benchmarks/results
	$(PY) -m benchmarks.devices --out=benchmarks/results

# On a machine with one large GPU: the attention kernel, the step and the autoencoder.
bench-gpu: $(GPU)/.ready
	$(GPU)/bin/python -m benchmarks.gpu --out=benchmarks/results/gpu.json

clean:
	rm -rf $(VENV) $(PARITY) $(GPU) $(AUDIT) build *.egg-info

$(READY): setup.py constraints.txt
	$(call install,$(VENV),dev)

$(TESTED): $(READY)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable .[dev$(COMPILER)]
	touch $@

$(PARITY)/.ready: setup.py constraints.txt
	$(call install,$(PARITY),parity)

$(GPU)/.ready: setup.py constraints.txt
	$(call install,$(GPU),parity$(comma)cuda)

$(AUDIT)/.ready:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet pip-audit
	touch $@

# install(environment, extra): versions as tested together.
define install
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'needs Python 3.11 or newer'"
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --constraint constraints.txt --editable .[$(2)]
	touch $(1)/.ready
endef
