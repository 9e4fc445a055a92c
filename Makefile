# Styx: every chore has one name. `make` lists them. A target does its own set-up; a second run is quick.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PROTOS := $(shell find protos -name '*.proto')
PACKAGES := styx styx_server styx_agent styx_cli
# One of the generated files stands for all.
GENERATED := styx/v1/styx_service_pb2.py
# Extra words for the tools, for example: make test ARGS='-k leases'
ARGS ?=

# Scenarios of the benchmark, with commas; none: all
ONLY ?=
SEED ?= 1
MINUTES ?= 5

.PHONY: help setup demo up down test faults check fmt lint types imports protos generated bench measure docs pins clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Make the environment in .venv
	@tools/setup.sh
	@$(MAKE) -s $(GENERATED)

demo: setup ## Run Styx on this machine for a few seconds, and show what it does
	@tools/demo.sh

up: setup ## Run Styx on this machine until Ctrl-C
	@$(BIN)/styx up $(ARGS)

down: setup ## Stop a Styx that runs in the background
	@$(BIN)/styx down $(ARGS)

test: setup ## Run all tests
	@$(BIN)/pytest $(ARGS)

faults: setup ## Break a running Styx for MINUTES=5 with SEED=1, and check that it kept its promises
	@$(BIN)/python -m tests.faults --seed $(SEED) --minutes $(MINUTES) $(ARGS)

check: setup ## Run every check that is not a test: format, lint, types, imports, generated code, documents
	@$(MAKE) --keep-going format lint types imports generated docs

fmt: setup ## Format the code, and mend what can be mended without thought
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lint: setup ## Lint the code
	@$(BIN)/ruff check .

types: setup ## Check the types
	@$(BIN)/mypy

imports: setup ## Check that the walls between the rooms hold
	@$(BIN)/lint-imports

protos: setup ## Generate the wire code from protos/
	@$(BIN)/python tools/gen_protos.py

format: setup
	@$(BIN)/ruff format --check .

generated: setup
	@$(BIN)/python -m tools.check_generated

docs: setup ## Check the documents: links, paths, commands
	@$(BIN)/python -m tools.check_docs

bench: setup ## Measure a running Styx beside its floors; ONLY=throughput,cli measures some
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(ARGS)

measure: setup ## Print the shape of the code: lengths, nesting, sizes of classes
	@$(BIN)/python -m tools.measure $(PACKAGES)

pins: setup ## Write constraints.txt anew, with the newest versions that fit
	@$(BIN)/python -m tools.pins

clean: ## Remove everything that the other targets made
	@rm -rf .venv examples/node-client/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@rm -f styx/v1/*_pb2*.py* styx/agent/v1/*_pb2*.py*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(GENERATED): $(PROTOS) tools/gen_protos.py
	@$(BIN)/python tools/gen_protos.py
