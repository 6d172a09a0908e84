# Two commands for a user: `make demo` and `make test`. Each sets up what it needs; a second call
# installs nothing. VENV=path and PYTHON=path choose another environment or interpreter.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
ifneq ($(words $(VENV)),1)
$(error VENV="$(VENV)" has a space, which make cannot use; give a path without one)
endif
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# torch comes first, without hashes: its build is the one that the user's index of packages offers.
LOCKS := requirements-torch.lock requirements.lock
# Installed when the stamp of exactly these locks and this pyproject is there.
KEY := $(shell cat $(LOCKS) pyproject.toml | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.installed-$(KEY)
DEMO_OUT ?= runs/demo
# Three processes for two cores, for tests that start Ray mostly wait; each file of tests stays in one of them.
PYTEST_ARGS ?= -n 3 --dist loadfile --no-loadscope-reorder
# Ends what the command leaves behind, above all Ray's processes.
TIDY := $(BIN)/python -m cluster.reaper --

.PHONY: help setup demo test test-fast check coverage fix lock bench clean-demo demo-weights
.DEFAULT_GOAL := help

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP)  ## make the environment and install the pinned packages

$(STAMP): $(LOCKS) pyproject.toml
	@"$(PYTHON)" -c 'import sys; assert sys.version_info >= (3, 11)' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing into $(VENV) (a few minutes, once) ..."
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(PIP) -r requirements-torch.lock
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-* && touch $@

demo: setup  ## resample a small cohort on a local Ray cluster and say where the report is
	$(BIN)/python -m cluster.local run -- jobs/resample_abdomen.py --out "$(DEMO_OUT)"

clean-demo:  ## forget the demo's run, so that the next `make demo` works from the start
	rm -rf "$(DEMO_OUT)"

test: setup  ## run all tests
	$(TIDY) $(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: setup  ## the tests that start no Ray and train nothing, in a minute or two
	$(BIN)/python -m pytest -m "not ray and not slow" $(PYTEST_ARGS)

coverage: setup  ## which lines of engine and models no test runs; not part of CI
	$(TIDY) $(BIN)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

check: setup  ## ruff, mypy strict, import-linter, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

fix: setup  ## format, and repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Versions already pinned stay; `uv` is not among them (pip install uv). The override leaves torch to its own lock.
lock:  ## pin the packages again, with hashes, after a change of pyproject.toml (needs uv)
	header="$$(grep '^#' requirements.lock)"; \
	uv pip compile pyproject.toml --extra eval --extra itk --extra s3 --group dev --python-version 3.11 \
	  --override <(echo 'torch ; python_version < "3"') --generate-hashes --no-header --no-annotate \
	  --no-emit-index-url --quiet --output-file requirements.lock; \
	printf '%s\n%s\n' "$$header" "$$(cat requirements.lock)" > requirements.lock

REAL_CT ?= ../shared/data/Dataset002_AbdomenCT
WEIGHTS_WORK := runs/demo_weights
PHANTOMS ?= 64
MINUTES ?=

demo-weights: setup  ## train the demo's weights again (MINUTES=2 a stage, PHANTOMS=8 for a try)
	$(BIN)/python jobs/make_phantoms.py --out $(WEIGHTS_WORK)/raw --num-phantoms $(PHANTOMS)
	for data in $(WEIGHTS_WORK)/raw "$(REAL_CT)"; do \
	  test -d "$$data" || continue; \
	  $(TIDY) $(BIN)/python jobs/prepare_dataset.py --config jobs/configs/prepare_abdomen_ct.yaml \
	    --root "$$data" --out $(WEIGHTS_WORK)/prepared; done
	for stage in autoencoder slice volume decoder position; do \
	  $(TIDY) $(BIN)/python jobs/train_model.py --config "jobs/configs/train_demo_$$stage.yaml" \
	    $(if $(MINUTES),--max-minutes $(MINUTES)); done
	@echo "weights and model card: $(WEIGHTS_WORK)/weights (the demo reads weights/demo_abdomen)"

bench: setup  ## run the benchmarks; each prints one JSON object as its last line
	shopt -s nullglob; for bench in benchmarks/bench_*.py; do $(TIDY) $(BIN)/python "$$bench"; done
