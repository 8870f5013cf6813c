# Everything starts here; `make` alone lists what there is. PYTHON=python3.12 chooses another Python.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=
# Most tests wait for real processes: three at a time suit two cores. Each has a Kafka and a Postgres of its own.
TEST_WORKERS ?= 3
.DEFAULT_GOAL := help
.PHONY: help setup demo up test drill drill-full soak check format lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: ## install everything into .venv and fetch Kafka; repeatable, offline once the caches are filled
	@$(PYTHON) scripts/setup.py

demo: setup ## start the whole stack and play a session of hook events through it; Ctrl-C stops
	@exec $(BIN)/chronicle demo

up: setup ## start the whole stack on this machine; Ctrl-C stops
	@exec $(BIN)/chronicle up

test: setup ## run the whole suite, on a real Kafka and Postgres too (PYTEST_ARGS="-k name" for a part)
	@exec $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

drill: setup ## prove by faults that nothing acked is lost: the short set, about ten minutes (SEED=n repeats a run)
	@exec $(BIN)/python -m chaos run $(if $(SEED),--seed $(SEED))

drill-full: setup ## all faults, three times each, and all planted bugs: an hour or more
	@exec $(BIN)/python -m chaos run --full $(if $(SEED),--seed $(SEED))

soak: setup ## 2,000 events a second for an hour, a fault a minute (MINUTES=n): memory, files and threads stay flat
	@exec $(BIN)/python -m chaos soak --minutes $(if $(MINUTES),$(MINUTES),60) $(if $(SEED),--seed $(SEED))

check: setup ## lint, format, types, import rules, lock: under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/lock.py --check

format: setup ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## resolve the dependencies anew (UPGRADE=1 lets versions rise) and pin the Kafka jars
	$(BIN)/python scripts/lock.py $(if $(UPGRADE),--upgrade)
	$(BIN)/python scripts/pin_jars.py

clean: ## remove what set-up and the tests made here (not the user's caches, not any data)
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
