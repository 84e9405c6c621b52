# whence: everything a developer runs. `make help` lists it.
#
# The environment is .venv, made on first use and renewed when pyproject.toml or the pinned versions
# change. Another Python: make test PYTHON=python3.12. Another place: make test VENV=/tmp/env.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ARGS ?=

PINS := constraints/pinned.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c $(PINS)
# The settings of tests/conftest.py, for the checks that run outside it.
QUIET := OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0 MPLBACKEND=Agg

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test quick lint format types house docs wheel-check check pictures clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(VENV)/.demo ## install, then explain a few handwritten digits
	$(BIN)/whence demo $(ARGS)

test: $(VENV)/.dev ## the whole suite, slow tests too
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

quick: $(VENV)/.dev ## the suite without the slow tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" $(ARGS)

lint: $(VENV)/.dev ## style: ruff, and its formatter has nothing to change
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

house: $(VENV)/.dev ## import order, cycles, sizes, import time
	$(BIN)/python -m pytest -q -n 0 tests/test_house.py tests/test_project.py

docs: $(VENV)/.dev ## every example in a docstring runs and prints what it says
	$(QUIET) $(BIN)/python -m pytest -q -n 0 --doctest-modules --doctest-continue-on-failure src/whence

wheel-check: $(VENV)/.dev ## the wheel, alone in an empty environment, works
	bash .ci/wheel-check $(BIN)/python

check: lint types house docs ## everything quick that must hold before a commit

pictures: $(VENV)/.demo ## draw the README's pictures again
	$(BIN)/whence demo --out build/demo
	mkdir -p docs/pictures
	cp build/demo/digits.png docs/pictures/digits.png

clean: ## remove what was made here, the environment too
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is touched only when its step is complete, so an interrupted install is taken up again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13))' || { \
		echo "whence is developed on Python 3.11 to 3.13, and $(PYTHON) is not one." \
			"Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first and by itself: asked for with an open range, or by a package that needs it, pip may
# choose a build for an accelerator that is not there.
$(VENV)/.demo: $(VENV)/.made pyproject.toml $(PINS)
	$(PIP) torch
	$(PIP) -e '.[demo]'
	@touch $@

# torchvision without its dependencies, for the same reason.
$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --no-deps torchvision
	$(PIP) -e '.[dev]'
	@touch $@
