# Everything a developer types. `make` alone lists it.
#
# Variables: ARGS is handed to the program, KILL to the demo, SECONDS and SEED to `make chaos`; PYTHON names the
# interpreter that `.venv` is made with; KAFKA and POSTGRES are the addresses of servers to test against; JOBS is the number of test processes.

ARGS ?=
KILL ?=
SECONDS ?= 60
SEED ?=
JOBS ?= 5
KAFKA ?=
POSTGRES ?=

BIN := .venv/bin
READY := .venv/.ready
SUITABLE := import ensurepip, sys, venv; sys.version_info >= (3, 11) or sys.exit(1)
PYTHON ?= $(firstword $(foreach python,python3.11 python3 python3.12 python3.13 python3.14,\
	$(shell $(python) -c '$(SUITABLE)' 2>/dev/null && echo $(python))))
NO_PYTHON := No Python 3.11 or newer with its venv module was found. Install one (Debian and Ubuntu: apt install \
	python3.11 python3.11-venv), or name it: make setup PYTHON=/path/to/python3.11
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes --strip-extras \
	--allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

GIVEN = $(if $(KAFKA),--kafka=$(KAFKA)) $(if $(POSTGRES),--postgres=$(POSTGRES))
# Fetched before the tests, whose time is limited. What cannot be had here fails the tests that need it, by name.
SERVERS = $(if $(and $(KAFKA),$(POSTGRES)),true,$(BIN)/python -m infra fetch || true)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-kafka test test-connected test-long up down check docs format lock bench bench-kafka chaos mutants replay clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo && echo '  Options go through: make demo KILL=3, make test ARGS="-k replay", make bench ARGS="--json"'

setup: $(READY) ## Make .venv from the lock file, once
	@echo "Ready: $(BIN)/saga"

$(READY): requirements-dev.txt pyproject.toml
	@$(or $(PYTHON),echo "$(NO_PYTHON)" >&2; false) -m venv .venv && echo "Installing into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . && touch $@

demo: $(READY) ## Run the order saga here and now; KILL=3 kills it three times on the way
	@$(BIN)/python -m domain $(if $(KILL),--kill $(KILL)) $(ARGS)

demo-kafka: $(READY) ## Run it on a real Kafka and PostgreSQL, in several processes, all of which KILL= kills
	@$(BIN)/python -m infra with --kept .saga/demo-servers -- sh -c 'exec $(BIN)/python -m domain \
		--bus "$$SAGA_BUS" --store "$$SAGA_STORE" $(if $(KILL),--kill $(KILL)) $(ARGS)'

test: $(READY) ## Run the tests, all but long ones and those that are slow against real servers
	@$(SERVERS); $(BIN)/pytest -n $(JOBS) --dist worksteal -m 'not (connected and slow or long)' $(GIVEN) $(ARGS)

test-connected: $(READY) ## Run all tests against real servers, ours or those at KAFKA= and POSTGRES=
	@$(SERVERS); $(BIN)/pytest -n $(JOBS) --dist worksteal -m connected $(GIVEN) $(ARGS)

test-long: $(READY) ## Run all tests beside busy processes, 20,000 simulated worlds and sagas, and a million expressions
	@$(SERVERS); $(BIN)/python -m tests.busy $(BIN)/pytest -n $(JOBS) --hypothesis-profile=search $(GIVEN) $(ARGS)
	@$(BIN)/python -m tests.simulation --seeds 20000 --first 1000000 --jobs $(JOBS)
	@$(BIN)/python -m tests.laws --examples 20000 --first 1000000 --jobs $(JOBS)
	@$(BIN)/python -m tests.authoring.graphs.fuzz --expressions 1000000 --jobs $(JOBS)

up: $(READY) ## Start Kafka and PostgreSQL in the background, and print their addresses
	@$(BIN)/python -m infra up $(ARGS)

down: $(READY) ## Stop them; their data stays in .saga/infra/ (ARGS=--erase removes it)
	@$(BIN)/python -m infra down $(ARGS)

check: $(READY) ## Check format, style, types, layers and public names
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/test_layers.py tests/test_public_surface.py

docs: $(READY) ## Build the site of docs/ into build/docs/, without network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict $(ARGS) && echo "Ready: build/docs/index.html"

format: $(READY) ## Put the code into its format and mend what can be mended
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

lock: $(READY) ## Resolve the dependencies anew (ARGS=--upgrade for the latest)
	@$(COMPILE) --all-extras --output-file requirements-dev.txt pyproject.toml $(ARGS)
	@$(COMPILE) --extra kafka,postgres --constraint requirements-dev.txt --output-file requirements.txt pyproject.toml $(ARGS)

bench: $(READY) ## Measure sagas on this machine; ARGS="--vs REV": beside older code; ARGS=--curves: how costs grow
	@$(BIN)/python -m benchmarks $(ARGS)

bench-kafka: $(READY) ## Measure them on a real Kafka and PostgreSQL; ARGS=--loaded: on a store with a past; ARGS=--mixed, --events, --curves
	@$(BIN)/python -m infra with --fast -- sh -c 'exec $(BIN)/python -m benchmarks \
		--bus "$$SAGA_BUS" --store "$$SAGA_STORE" $(ARGS)'

chaos: $(READY) ## Strike a real deployment at random and see that nothing breaks; SECONDS=60 SEED=1
	@$(SERVERS); $(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

mutants: $(READY) ## Break the engine on purpose and see that the simulation notices
	@$(BIN)/python -m tests.simulation.mutants $(ARGS)

replay: $(READY) ## Fold the stored histories through today's code
	@$(BIN)/saga replay $(ARGS)

clean: ## Remove .venv and what the tools left; .saga/ and its data stay
	@rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
