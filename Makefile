# Everything starts here; `make` alone lists what there is. PYTHON=python3.12 chooses another Python.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=
# Most tests wait for real processes: three at a time suit two cores. Each has a Kafka and a Postgres of its own.
TEST_WORKERS ?= 3
# Where no mirror answers, or another apt is at work, that is soon found out: nobody waits for a browser for ever.
APT := -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 -o DPkg::Lock::Timeout=60
.DEFAULT_GOAL := help
.PHONY: help setup demo up test browser pictures drill drill-full soak bench bench-quick bench-read bench-large bench-pages profile guard check format lock clean

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

browser: ## Debian's Chromium, for the tests of the page (needs root and apt; without it they are skipped, saying so)
	@command -v "$${CHRONICLE_CHROMIUM:-chromium}" >/dev/null || command -v chromium-browser >/dev/null \
	|| command -v google-chrome >/dev/null || { export DEBIAN_FRONTEND=noninteractive; \
	timeout 120 apt-get update -qq $(APT) </dev/null \
	&& timeout 600 apt-get install -y -qq --no-install-recommends $(APT) chromium </dev/null; }

pictures: setup ## the screenshots of docs/img anew, out of the tests of the page
	@CHRONICLE_PICTURES=docs/img $(BIN)/python -m pytest -q tests/browser

drill: setup ## prove by faults that nothing acked is lost: the short set, about ten minutes (SEED=n repeats a run)
	@exec $(BIN)/python -m chaos run $(if $(SEED),--seed $(SEED))

drill-full: setup ## all faults, three times each, and all planted bugs: an hour or more
	@exec $(BIN)/python -m chaos run --full $(if $(SEED),--seed $(SEED))

soak: setup ## 2,000 events a second for an hour, a fault a minute (MINUTES=n): memory, files and threads stay flat
	@exec $(BIN)/python -m chaos soak --minutes $(if $(MINUTES),$(MINUTES),60) $(if $(SEED),--seed $(SEED))

bench: setup ## Chronicle beside what else would be used, about forty minutes; writes benchmarks/results.md
	@exec $(BIN)/python -m benchmarks --write $(BENCH_ARGS)

bench-quick: setup ## the main cases, one round each: under six minutes
	@exec $(BIN)/python -m benchmarks --quick $(BENCH_ARGS)

bench-read: setup ## the API over ten million events, the page over one million; ten minutes
	@exec $(BIN)/python -m benchmarks --read --write $(BENCH_ARGS)

bench-large: setup ## what else needs ten million events: growth, restart; half an hour
	@exec $(BIN)/python -m benchmarks --large --write $(BENCH_ARGS)

bench-pages: setup ## put the figures of the last run into docs/performance.md and docs/scaling.md
	@exec $(BIN)/python -m benchmarks.pages

profile: setup ## what each stage costs an event, beside the libraries' own cost
	@exec $(BIN)/python -m benchmarks.profile

guard: setup ## has a stage become slower by more than a third? seconds; a part of .ci/run
	@exec $(BIN)/python -m benchmarks.guard

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
