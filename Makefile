# make demo · make test · make test-all · make bench · make check
# Every target sets up what it needs; a set-up that is already there costs nothing.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ENGINE ?= simulator
LOCK_ARGS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header

.PHONY: help setup demo test test-all cluster bench check format schemas lock clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## virtual environment with the pinned dependencies

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "servegate needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Setting up $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## two releases through the whole pipeline: one promoted, one rolled back (ENGINE=simulator|vllm)
	@$(BIN)/servegate demo --engine $(ENGINE)

test: $(READY) ## unit tests and the local end to end with the simulator
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/e2e

test-all: $(READY) chromium prometheus image-tools cluster-programs ## what `make test` leaves out: a real browser, rollouts in several terminals, Prometheus, image builds, workflows, a registry with cosign, a cluster, the engine
	@$(BIN)/python -m pytest tests/action tests/browser tests/terminals tests/prometheus tests/image tests/workflows tests/registry tests/cluster
	@$(BIN)/python -m pytest tests/engine

cluster: $(READY) ## a real Kubernetes with GPU nodes and a gateway, as processes, until Ctrl-C (RUN="command": until that ends)
	@PYTHONPATH=tests/support $(BIN)/python -m cluster $(RUN)

# Built once into the user's cache; without Go, Go is installed there too.
.PHONY: cluster-programs
cluster-programs: $(READY)
	@PYTHONPATH=tests/support $(BIN)/python -m cluster --build

# A browser to look at the report with; Debian's package, because no other source is as easy to trust.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || { echo "Installing chromium (Debian package)"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium fonts-noto-cjk >/dev/null; }

.PHONY: prometheus
prometheus:
	@command -v prometheus >/dev/null || { echo "Installing prometheus (Debian package)"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -qq -y --no-install-recommends prometheus >/dev/null; }

# Image builds without a container engine, and a registry to push to. RUNLEVEL: no service is started.
.PHONY: image-tools
image-tools:
	@(for tool in buildah skopeo docker-registry debootstrap runc jq; do command -v $$tool || exit 1; done) >/dev/null || { \
		echo "Installing buildah, skopeo, docker-registry, debootstrap, runc, jq (Debian packages)"; apt-get update -qq && \
		RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
			buildah skopeo docker-registry debootstrap runc jq >/dev/null; }

bench: $(READY) ## the measured claims, with the machine they were measured on
	@$(BIN)/python benchmarks/run.py

check: $(READY) ## lint, format, types, import directions, published schemas, Dockerfile, workflows
	@$(BIN)/ruff check .
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/actionlint -shellcheck $(BIN)/shellcheck
	@$(BIN)/zizmor --offline --quiet --persona pedantic .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/servegate schema --check docs/schemas

format: $(READY) ## format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

schemas: $(READY) ## write the published JSON Schemas
	@$(BIN)/servegate schema --write docs/schemas

lock: ## pin the dependencies anew (needs uv)
	@uv pip compile --quiet --upgrade $(LOCK_ARGS) --extra dev --extra all pyproject.toml -o requirements.lock
	@uv pip compile --quiet $(LOCK_ARGS) --constraint requirements.lock --group build pyproject.toml \
		-o requirements-action.lock

clean: ## remove what the targets made
	@rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache
