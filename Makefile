# Needs python3 (3.11 or newer) and make. Everything is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# A stamp older than these is made again.
PINS := pyproject.toml constraints.txt

# One pytest worker for each core, one thread for each worker.
WORKERS := -n auto --maxprocesses 8
TESTING := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/

# Options for the tool that a target runs: make check ARGS="--dtype float32"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help check test test-slow coverage coverage-report bench lint types rows fault-pages fault-matrix mutants example-reports site clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: $(VENV)/.installed  ## compare the model with its reference, operation by operation
	$(BIN)/python -m parity.check layerwise $(ARGS)

# ARGS="-n 0" runs all in one process.
test: $(VENV)/.installed-test  ## run the tests, without the slow ones
	$(TESTING) $(WORKERS) $(ARGS)

# Two files at a time: a test may hold full-size models, up to 10 GB. ARGS="-m release" runs those that CI leaves out.
test-slow: $(VENV)/.installed-test  ## run the slow tests alone
	$(TESTING) -m "slow and not release" -n 2 --dist loadfile $(ARGS)

# coverage-report applies the threshold, so that a failure says whether tests or coverage failed.
coverage: $(VENV)/.installed-test  ## run the tests and measure branches: htmlcov/, fails below the threshold
	$(TESTING) $(WORKERS) --cov --cov-report= --cov-fail-under=0 $(ARGS)
	$(MAKE) coverage-report

coverage-report: $(VENV)/.installed-test  ## report the coverage of the last measured run
	$(BIN)/python -m coverage html --fail-under=0
	$(BIN)/python -m coverage report

# Shape checks would be timed too, so they are off here.
bench: $(VENV)/.installed-test  ## time the kernels
	$(BIN)/python -m pytest bench --jaxtyping-packages= $(ARGS)

lint: $(VENV)/.installed-dev  ## style (ruff) and import directions (import-linter)
	$(BIN)/python -m ruff check $(ARGS)
	$(BIN)/python -m ruff format --check
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev  ## mypy, strict
	$(BIN)/python -m mypy $(ARGS)

# ARGS="-e py311-torch26-hf457" runs one, ARGS="-p 2" two at a time; docs/versions.md says what a row downloads.
rows: $(VENV)/.installed-dev  ## tests and checks on every torch, and what changed between them (tox)
	$(BIN)/python -m tox $(ARGS)

# ARGS=--run makes the reports first, and not only the pages.
example-reports: $(VENV)/.installed  ## render docs/reports again
	$(BIN)/python tests/example_reports.py $(ARGS)

# ARGS=--measure injects every fault again and records the numbers first, which takes 2 minutes.
fault-pages: $(VENV)/.installed-test  ## write docs/faults: a page for every fault
	$(BIN)/python tests/fault_pages.py $(ARGS)

# ARGS=--measure runs every fault through every check first, which takes 5 minutes of a processor.
# pytest-torch is installed beside the environment: pytest would load it in every run.
PEERS := $(VENV)/peers
fault-matrix: $(VENV)/.installed-test  ## write docs/selftest.md: each fault by each check, and peers
	$(PIP) --quiet --no-deps --upgrade --target $(PEERS) pytest-torch==1.1.1
	PYTHONPATH=$(PEERS) $(BIN)/python tests/fault_matrix.py $(ARGS)

mutants: $(VENV)/.installed-dev  ## write docs/mutants.md: mistakes in the harness that its tests find
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py $(ARGS)

site: $(VENV)/.installed-dev  ## build the documentation's site: site/index.html
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict $(ARGS)

clean:  ## remove the environment and everything that tools made
	rm -rf $(VENV) .tox .benchmarks .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist htmlcov site
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Order-only: the age of the environment's python says nothing.
$(VENV)/.installed: $(PINS) | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(PINS) | $(BIN)/python
	$(PIP) -e '.[test,original-text]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(PINS) | $(BIN)/python
	$(PIP) -e '.[test,original-text,docs,dev]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-test
