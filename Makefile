# The environment is made on first use; every target needs only Python 3.11+, make and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint bench study clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is %d.%d; call make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

demo: $(READY)  ## adapt a policy to a shifted phantom domain; ends with a table and the report's path
	$(BIN)/rl4seg demo

test: $(READY) lint  ## linters, types, import contracts and tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" --durations 25 --durations-min 15

test-slow: $(READY)  ## what `make test` leaves out: two workers, schedules, power loss, more ways to die, fresh environments, a browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 1 -m slow

lint: $(READY)  ## formatting, linters, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(READY)  ## one figure per row of the performance targets
	$(BIN)/python -m tests.benchmarks

study: $(READY)  ## the demo and its rivals over three seeds: differences with intervals; ends with a page
	$(BIN)/rl4seg compare auto_iteration/demo seeds=0,1,2

clean:  ## remove caches and run folders, keep the environment
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -exec rm -rf {} +
