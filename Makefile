# The only commands that CI and the README know. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

SEED   ?= 0
SUFFIX := $(if $(filter-out 0,$(SEED)),-seed$(SEED))
DEMO   ?= runs/demo$(SUFFIX)
SCENES ?= data/demo$(SUFFIX)
STEPS  ?= 150
SEEDS  ?= 3

# Two processes that each start two threads on two cores are slower than one: one thread each by default.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo ablate test test-slow test-gpu check format docs bench bench-gpu clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Pass another: make setup PYTHON=python3.12"; exit 2; }
	@echo "installing PyTorch and all other packages into $(VENV): some minutes, 7 GB with CUDA"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)  ## install into .venv, once

demo: setup  ## from rendered videos to pixel features and their scores: runs/demo/report/index.html
	$(BIN)/lila-cues build --dataset demo --root $(SCENES) --store $(DEMO)/cues.zarr --seed $(SEED)
	$(BIN)/lila-train run --recipe demo --store $(DEMO)/cues.zarr --out $(DEMO)/train --steps $(STEPS) --seed $(SEED)
	$(BIN)/lila-train eval davis-knn@lila --data $(SCENES)/heldout --weights $(DEMO)/train/weights.safetensors --out $(DEMO)/eval
	$(BIN)/lila-train report --demo $(DEMO)

ablate: setup  ## the paper's ablations on the demo's store: runs/demo/ablations
	$(BIN)/lila-cues build --dataset demo --root $(SCENES) --store $(DEMO)/cues.zarr --seed $(SEED)
	$(BIN)/lila-train ablate --store $(DEMO)/cues.zarr --data $(SCENES)/heldout --out $(DEMO)/ablations --steps $(STEPS) --seeds $(SEEDS)

test: setup  ## the default tests, on the CPU, without a network
	$(BIN)/pytest

test-slow: setup  ## the tests that take minutes
	$(BIN)/pytest -m slow --timeout=3600

# Without setup, and without the plugins of the default tests: a GPU machine may have no network to install from.
test-gpu:  ## the tests that need a CUDA device, with PYTHON's own packages
	$(PYTHON) -m pytest -o addopts=-qra -W default -m gpu $$(grep -rl 'mark\.gpu' tests --include='test_*.py')

check: setup  ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## format, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## the pages and the API reference as a site: site/index.html
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: setup  ## every benchmark on the CPU, ratios measured in one run
	$(BIN)/python -m tests.benchmarks

bench-gpu:  ## figures of a GPU in 9 minutes, a JSON line each, with PYTHON's own packages
	@$(PYTHON) -m tests.gpu.measure

clean:  ## delete the virtual environment; keep data, stores and runs
	rm -rf $(VENV)
