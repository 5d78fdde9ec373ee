# Everything a checkout needs: `make demo` and `make check test` work on a bare machine with Python 3.11 or newer.
PYTHON ?= python3
CONFIG ?= ray_jobs/configs/demo.yaml
VENV := .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin
FAST := not slow and not gpu and not endurance
REST := (slow or gpu) and not endurance
# All that starts Ray in one process, the rest in the other: `make test JOBS=0` runs all of it in one.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder
BENCHMARKS := step sweep together scale prepare
QUICK_RESULTS := benchmarks/results/quick

# Several workers share the cores: one thread each is faster than all of them fighting over every core.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-rest test-all test-endurance test-gpu check format exactness reliability bench bench-quick

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(INSTALLED) ## a small sweep on this machine's CPU, with report
	$(BIN)/modpo run $(CONFIG)

test: $(INSTALLED) ## the tests to run before every commit
	$(PYTEST) -m "$(FAST)"

test-rest: $(INSTALLED) ## only the slow tests that `make test` leaves out
	$(PYTEST) -m "$(REST)"

test-endurance: $(INSTALLED) ## only those that take minutes each: nodes and drivers lost, another machine, canaries
	$(BIN)/python -m pytest -m endurance

test-all: test test-rest test-endurance ## all tests

test-gpu: $(INSTALLED) ## the tests that need a GPU; each says why where it is skipped
	$(BIN)/python -m pytest -m gpu

exactness: $(INSTALLED) ## measure every acceptance criterion and write docs/exactness.md
	$(BIN)/python -m pytest --acceptance tests/acceptance/measured.json
	$(BIN)/python -m tests.acceptance.page

reliability: $(INSTALLED) ## kills, corruptions and races against their bars, in at most an hour; writes docs/reliability.md
	@$(BIN)/python -W ignore -m benchmarks.reliability; status=$$?; $(BIN)/python -m benchmarks.reliability.page; exit $$status

check: $(INSTALLED) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## sort imports and format
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## all benchmarks: tables, and benchmarks/results/NAME.json
	@set -e; for name in $(BENCHMARKS); do $(BIN)/python -W ignore -m benchmarks.$$name; done

bench-quick: $(INSTALLED) ## the same with small sizes, in less than three minutes
	@set -e; for name in $(BENCHMARKS); do \
	    $(BIN)/python -W ignore -m benchmarks.$$name --quick --results $(QUICK_RESULTS)/$$name.json; done

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else \
	    f"modpo needs Python 3.11 or newer, $(PYTHON) is {v}. Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable ".[dev]"
	@touch $@
