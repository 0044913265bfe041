# `make demo` and `make test` do all the set-up on a fresh machine: python3 >= 3.11 with
# venv is enough. The second call reuses what stands.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# One worker per core, at most four; each holds a model or two.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() or 1))")

.PHONY: demo test lint bench clean

demo: $(READY)
	$(PY) -m sora_jax.demo --workdir=runs/demo

test: $(READY)
	$(PY) -m pytest -n $(WORKERS)

lint: $(READY)
	$(VENV)/bin/ruff check .

bench: $(READY)
	$(PY) -m benchmarks.packed_vs_padded --out=benchmarks/results

clean:
	rm -rf $(VENV) build *.egg-info

$(READY): setup.py constraints.txt
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'needs Python 3.11 or newer'"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable .[dev]
	touch $(READY)
