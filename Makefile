# Everything runs in .venv, which holds exactly what requirements.lock names.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help demo test bench lint format lock clean

help: ## Say what each target does
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## See Tallystick at work, with a provider that answers on this machine
	@$(BIN)/tallystick demo
	@echo; echo "And half a year of a business that sells plans, in seconds (tallystick simulate):"; echo
	@$(BIN)/tallystick simulate

test: lint ## Check style and types, then run all tests, on SQLite and on a real PostgreSQL
	@$(BIN)/python -m pytest

bench: $(INSTALLED) ## Measure throughput and latency
	@$(BIN)/python -m benchmarks

lint: $(INSTALLED) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Write requirements.lock anew from pyproject.toml (LOCK_OPTIONS=--upgrade for newer versions)
	@PYTHON="$(PYTHON)" scripts/lock $(LOCK_OPTIONS)

clean: ## Remove the environment, caches and what was built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew when the lock file changes, so that nothing of an older one stays behind.
$(LOCKED): requirements.lock
	@scripts/check-python "$(PYTHON)"
	@echo "Installing what requirements.lock names into $(VENV) …"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --require-hashes --requirement requirements.lock
	@touch $@

# Nothing is resolved or fetched here: the build backend is in the lock file too.
$(INSTALLED): $(LOCKED) pyproject.toml
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
