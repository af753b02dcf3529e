# make serve            start the service with the bundled model (no PyTorch needed)
# make serve MODEL=…    … with a bundle folder, a bundled name, or a checkpoint (OPTIONS="--psa-type collect" …)
# make setup            everything for exporting, training and testing on a CPU
# make test | check | format | bench
# make sbom             what the CPU image holds, in CycloneDX (docs/docker.md)
#
# Variables: HOST, PORT, MODEL, OPTIONS, PYTHON (3.11 or newer), TORCH_INDEX (another package index, for torch only),
# TESTS (what pytest gets).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
HOST ?= $(or $(PSANET_HOST),127.0.0.1)
PORT ?= $(or $(PSANET_PORT),8000)
MODEL ?=
OPTIONS ?=
TORCH_INDEX ?=
TESTS ?=

TORCH := torch==2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Stamps carry a checksum of what was asked for, so that a change of either file, and nothing else, installs anew.
KEY := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
SERVE_STAMP := .venv/.serve-$(KEY)
SETUP_STAMP := .venv/.setup-$(KEY)

.PHONY: help serve setup test check format bench sbom

help:
	@sed -n 's/^# \{0,1\}//p; /^$$/q' Makefile

serve: $(SERVE_STAMP)
	@PSANET_HOST="$(HOST)" PSANET_PORT="$(PORT)" $(if $(MODEL),PSANET_MODELS="$(MODEL)") $(if $(OPTIONS),PSANET_CHECKPOINT_OPTIONS="$(OPTIONS)") exec $(BIN)/python -m service

setup: $(SETUP_STAMP)

test: $(SETUP_STAMP)
	$(BIN)/python -m pytest $(TESTS)

check: $(SETUP_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=docker $(BIN)/mypy docker/*.py
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile.*
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml docker/compose.*.yaml

format: $(SETUP_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(SETUP_STAMP)
	@for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

sbom: $(SETUP_STAMP)
	$(BIN)/python docker/sbom.py

$(BIN)/pip:
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): name another with make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv

$(SERVE_STAMP): | $(BIN)/pip
	@echo "Installing what serving needs into .venv (once)"
	$(PIP) install -qq -c constraints.txt hatchling
	$(PIP) install -qq -c constraints.txt --no-build-isolation -e '.[cpu,serve]'
	@touch $@

$(SETUP_STAMP): | $(BIN)/pip
	@echo "Installing everything into .venv (a few minutes, once)"
	$(PIP) install -qq -c constraints.txt hatchling setuptools
	$(if $(TORCH_INDEX),$(PIP) install -qq --no-deps --index-url "$(TORCH_INDEX)" $(TORCH))
	$(PIP) install -qq -c constraints.txt --no-build-isolation -e '.[cpu,serve,train,export,trt,plugin,dev]'
# The one package that is compiled here; the rest does without it.
	@$(PIP) install -qq -c constraints.txt --no-build-isolation -e '.[densecrf]' || echo "DenseCRF could not be compiled (is a C++ compiler installed?); everything but python -m training.evaluate --densecrf works without it" >&2
	@touch $(SERVE_STAMP) $@
