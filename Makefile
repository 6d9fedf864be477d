# `make demo` and `make test` are all that a newcomer needs; `make help` tells the rest.
# Needed: Python 3.11 or later, pip, make. Everything else is fetched into .venv and .tools.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The newest of these that is at least 3.11; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
BIN := .venv/bin
# Tests in parallel: a yard is many processes, so more than four at once only slows a small machine.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n > 4 ? 4 : n )))
ARGS ?=
LOCK_FLAGS := -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate --all-extras --group dev
SOURCES := modelyard gateway services benchmarks tests tools

.PHONY: help demo up test campaigns check generate format bench bench-embedded bench-tail bench-shadow bench-peers bench-workers soak soak-races soak-cancels soak-lane soak-front floors lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv: .venv/stamp

.venv/stamp: requirements.lock pyproject.toml tools/venv.py
	@$(PYTHON) tools/venv.py
	@touch $@

demo: .venv/stamp ## The tour on real models; KEEP=1 leaves the yard up
	@$(BIN)/modelyard demo $(if $(filter-out 0,$(KEEP)),--keep) $(ARGS)

up: .venv/stamp ## The whole yard on this machine, in the foreground
	@$(BIN)/modelyard up $(ARGS)

# Continuous integration (CI set) must have perf_analyzer; elsewhere its test tells why it skips.
test: .venv/stamp ## All tests but campaigns; ARGS='-k name' chooses
	@$(BIN)/python tools/perf_analyzer.py || [ -z "$${CI:-}" ]
	@$(BIN)/python tools/node_client.py || [ -z "$${CI:-}" ]
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -m 'not campaign' $(ARGS)

campaigns: .venv/stamp ## Load and faults over every front, lane and number of workers (10 minutes)
	@$(BIN)/python -m pytest -q -m campaign $(ARGS)

check: .venv/stamp ## Format, lint, types, import directions, contracts, stubs, lock
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --strict $(SOURCES)
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null || true); \
	if [ -n "$$tag" ]; then $(BIN)/buf breaking --against ".git#tag=$$tag"; \
	else echo "buf breaking: no tag yet to compare with"; fi
	@$(BIN)/python tools/generate.py --check
	@$(BIN)/python -m tools.errors_table --check
	@$(BIN)/python tools/lock.py
	@echo "check: all clean"

generate: .venv/stamp ## Stubs from protos/
	@$(BIN)/buf format -w protos
	@$(BIN)/python tools/generate.py
	@$(BIN)/python -m tools.errors_table

format: .venv/stamp ## Formats, and mends what ruff can mend
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench: .venv/stamp ## Side by side with named peers, into benchmarks/results/
	@$(BIN)/python -m benchmarks.compare $(ARGS)

bench-tail: .venv/stamp ## Tails with and without hedging, and a rendezvous beside its forecast (25 minutes)
	@$(BIN)/python -m benchmarks.tail $(ARGS)
	@$(BIN)/python -m benchmarks.tail.rendezvous
	@$(BIN)/python -m benchmarks.race_cost

bench-embedded: .venv/stamp ## One process beside onnxruntime called directly (5 minutes)
	@$(BIN)/python -m benchmarks.embedded $(ARGS)

bench-peers: .venv/stamp ## Fetches the peers that `bench` compares with, each into its own environment
	@$(BIN)/python -m benchmarks.peers.install $(ARGS)

bench-shadow: .venv/stamp ## How often verdicts are wrong, records a second, what shadows cost served calls (an hour and a half)
	@$(BIN)/python -m benchmarks.verdicts
	@$(BIN)/python -m benchmarks.records
	@$(BIN)/python -m benchmarks.recorded
	@$(BIN)/python -m benchmarks.shadow_cost $(ARGS)

bench-workers: .venv/stamp ## Calls a second by the number of gateway processes behind one port (2 minutes)
	@$(BIN)/python -m benchmarks.workers $(ARGS)

soak: .venv/stamp ## Memory over calls, cancelled calls and replacements; ARGS='--grpcio 1.82.3 1.85.1'
	@$(BIN)/python -m benchmarks.soak $(ARGS)

soak-races: .venv/stamp ## Memory over a million races with cancelled losers (20 minutes)
	@$(BIN)/python -m benchmarks.soak_races $(ARGS)

soak-lane: .venv/stamp ## A million mutated frames at both ends of the local lane (15 minutes)
	@$(BIN)/python -m benchmarks.fuzz $(ARGS)

soak-cancels: .venv/stamp ## Memory over a million calls that their callers give up, over frames (20 minutes)
	@$(BIN)/python -m benchmarks.soak_cancels $(ARGS)

soak-front: .venv/stamp ## A million malformed calls at every front, over both lanes (30 minutes); ARGS='--cases 400000'
	@$(BIN)/python -m benchmarks.fuzz.fronts $(ARGS)

# tritonclient needs a newer grpcio and protobuf than we do: it stays out, and so do its tests.
floors: .venv/stamp ## Unit and contract tests on the oldest versions that pyproject allows
	@mkdir -p .tools
	@echo "tritonclient ; sys_platform == 'none'" > .tools/floors-overrides.txt
	@$(BIN)/uv pip compile -q --upgrade --resolution lowest-direct --python-version 3.11 --all-extras --group dev \
		--no-header --no-annotate --override .tools/floors-overrides.txt pyproject.toml -o .tools/floors.txt
	@$(BIN)/uv venv -q --clear --python $(PYTHON) .tools/floors
	@$(BIN)/uv pip install -q --python .tools/floors/bin/python -r .tools/floors.txt
	@$(BIN)/uv pip install -q --python .tools/floors/bin/python --no-deps --no-build-isolation -e .
	@.tools/floors/bin/python -m pytest -q -p no:warnings tests/unit tests/contract \
		$$(grep -rlE 'tritonclient|perf_analyzer' tests --include='test_*.py' | sed 's/^/--ignore=/') $(ARGS)

lock: .venv/stamp ## Resolves pyproject anew into requirements.lock (network)
	@$(BIN)/uv pip compile $(LOCK_FLAGS) $(ARGS) pyproject.toml -o requirements.lock

clean: ## Removes .venv, .tools and caches
	@rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
