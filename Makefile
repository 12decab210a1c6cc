# The verbs. Each is one line that calls something; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pytest's options, such as ARGS="-k acceptance".
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast campaign lint generate freeze stepcost klab matrix faults fuzz soak scale clean

help: ## List the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/ready: pyproject.toml uv.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "uv>=0.5"
	$(BIN)/uv sync --frozen --quiet
	@touch $@

demo: $(VENV)/ready ## The main job on real parts: cluster, operator, engine, traffic, rollback of K
	$(BIN)/python -m demo $(ARGS)

test: $(VENV)/ready lint ## Everything that must hold, on real parts
	$(BIN)/python -m testbed install
	$(BIN)/python -m pytest -n 3 $(ARGS)

test-fast: $(VENV)/ready ## What needs no cluster and no patience, in under a minute
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not cluster and not control_plane and not engine and not prometheus and not slow" tests $(ARGS)

campaign: $(VENV)/ready ## The tests that take minutes each and are no part of `make test`
	$(BIN)/python -m pytest -m campaign $(ARGS)

lint: $(VENV)/ready ## Style, types, import walls, and whether what is generated is fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo || $(BIN)/lint-imports
	$(BIN)/python manifests/assemble.py --check

stepcost: $(VENV)/ready ## What the agent adds to a step of vLLM's scheduler: in one run, with ratios
	$(BIN)/python -m bench.stepcost $(ARGS)

klab: $(VENV)/ready ## The K policies in the lab; rewrites the table in docs/policy.md
	$(BIN)/python -m bench.klab $(ARGS)

faults: $(VENV)/ready ## Every fault between operator and API server in every scenario; rewrites bench/results/faults.md
	$(BIN)/python -m tests.faults $(ARGS)

fuzz: $(VENV)/ready ## Thousands of mutated specs against a running operator; rewrites bench/results/fuzz.md
	$(BIN)/python -m tests.fuzz $(ARGS)

soak: $(VENV)/ready ## Traffic and random faults for an hour on real engines (ARGS="--minutes 10"); rewrites bench/results/soak.md
	$(BIN)/python -m soak $(ARGS)

scale: $(VENV)/ready ## A thousand resources beside a thousand LeaderWorkerSets; rewrites bench/results/scale-*.json
	$(BIN)/python -m bench.scale $(ARGS)

generate: $(VENV)/ready ## Regenerate the CRD, the references, manifests/install.yaml and the chart's copies
	$(BIN)/python -m gemmaspec.api.crd crds/gemmaspec.io_gemmaspecdeploys.yaml
	$(BIN)/python -m gemmaspec.api.reference docs/reference.md
	$(BIN)/python -m gemmaspec.cli.reasons docs/runbook.md
	$(BIN)/python -m gemmaspec.runtime.metrics_reference docs/metrics.md
	$(BIN)/python manifests/assemble.py

freeze: $(VENV)/ready ## Hold today's definition as that of the coming release; later ones must admit what it admits
	$(BIN)/python manifests/assemble.py --freeze

matrix: $(VENV)/ready ## Drive the agent against every vLLM version and rewrite docs/live-k-matrix.*
	cd e2e && PYTHONPATH=../operator ../$(BIN)/python -m matrix $(ARGS)

clean: ## Remove what was built here (not the cache of downloads)
	rm -rf $(VENV) out dist .pytest_cache .mypy_cache .ruff_cache
