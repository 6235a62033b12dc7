# Works from a bare clone with python3 (3.11 or newer) and make. Everything lives in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# A stamp is newer than these, or its installation runs again.
PINS := pyproject.toml constraints.txt

# A worker a core, with one thread each, and so in what they start: more threads would wait for each other.
WORKERS := -n auto --maxprocesses 8
TESTING := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/

# More options for the tool a target runs: make check ARGS="--dtype float32"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help check test test-slow coverage coverage-report bench lint types rows clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: $(VENV)/.installed  ## compare the model with its reference, operation by operation
	$(BIN)/python -m parity.check layerwise $(ARGS)

# ARGS="-n 0" runs all in one process.
test: $(VENV)/.installed-test  ## run the tests, without the slow ones
	$(TESTING) $(WORKERS) $(ARGS)

# Two files at a time: each may hold a model of full size, up to 10 GB.
test-slow: $(VENV)/.installed-test  ## run the slow tests alone
	$(TESTING) -m slow -n 2 --dist loadfile $(ARGS)

# The threshold is coverage-report's, so that what fails is the tests or the threshold.
coverage: $(VENV)/.installed-test  ## run the tests and measure branches: htmlcov/, fails below the threshold
	$(TESTING) $(WORKERS) --cov --cov-report= --cov-fail-under=0 $(ARGS)
	$(MAKE) coverage-report

coverage-report: $(VENV)/.installed-test  ## judge what the last measured run left
	$(BIN)/python -m coverage html --fail-under=0
	$(BIN)/python -m coverage report

# Shape checks would be timed along, so they are switched off here.
bench: $(VENV)/.installed-test  ## time the kernels
	$(BIN)/python -m pytest bench --jaxtyping-packages= $(ARGS)

lint: $(VENV)/.installed-dev  ## style (ruff) and import directions (import-linter)
	$(BIN)/python -m ruff check $(ARGS)
	$(BIN)/python -m ruff format --check
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev  ## mypy, strict
	$(BIN)/python -m mypy $(ARGS)

# ARGS="-e py311-torch26-hf457" runs one, ARGS="-p 2" two at a time; README.md says what a row downloads.
rows: $(VENV)/.installed-dev  ## the tests on every torch, and what moved between them: tox
	$(BIN)/python -m tox $(ARGS)

clean:  ## remove the environment and everything the tools left
	rm -rf $(VENV) .tox .benchmarks .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist htmlcov
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The environment is needed first but is no prerequisite by time: its python is older or newer by accident.
$(VENV)/.installed: $(PINS) | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(PINS) | $(BIN)/python
	$(PIP) -e '.[test,original-text]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(PINS) | $(BIN)/python
	$(PIP) -e '.[test,original-text,dev]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test
