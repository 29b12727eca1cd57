# Every target makes the virtual environment it needs (.venv) on first use, with only the packages it needs:
# with uv where there is one, else with venv and pip. Nothing but Python 3.11 and make must be there before.

PYTHON ?= python3
# `make test` fails when less of the package's branches is covered, in percent.
COVERAGE_MIN ?= 92
# How many tests run at once; auto: one for each core, 0: all in one process (for a debugger).
TEST_WORKERS ?= auto
# More arguments for serve, test, bench, soak and demo: make test ARGS="-k codec -x"
ARGS ?=

VENV_PYTHON := .venv/bin/python
venv = @$(PYTHON) scripts/venv.py

.DEFAULT_GOAL := help
.PHONY: help demo serve test lint bench soak clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: ## Start a daemon in a temporary directory, put a real tree through its tiers, print a table
	$(venv)
	@$(VENV_PYTHON) -m benchmarks.demo $(ARGS)

serve: ## Run the daemon on the embedded default until Ctrl-C
	$(venv)
	@.venv/bin/tiered-store serve $(ARGS)

test: ## Run all tests with branch coverage, the daemons they start included
	$(venv) test
	$(VENV_PYTHON) -m pytest -n $(TEST_WORKERS) --dist worksteal --cov --cov-report=term --cov-fail-under=$(COVERAGE_MIN) $(ARGS)

lint: ## Check style, format, types and the direction of imports
	$(venv) lint
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) .venv/bin/lint-imports

bench: ## Measure it beside Redis, memcached and nginx, where they are installed (benchmarks/README.md)
	$(venv) bench
	@$(VENV_PYTHON) -m benchmarks --json benchmarks/results/latest.json $(ARGS)

soak: ## Ten minutes of everything at once, with faults and kills, against a model (ARGS="--seconds 60 --seed 1")
	$(venv) test
	@$(VENV_PYTHON) -m tests.soak $(ARGS)

clean: ## Remove the virtual environment and what the tools left behind
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
