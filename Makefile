# Every target does its own set-up in .venv and needs Python 3.11 or newer and make, nothing else; a second call is quick.
# PYTHON chooses the interpreter: `make PYTHON=python3.12 test`. Packages come from wherever pip is told to look.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# One thread for each process: on two cores more of them only wait for one another. Tests start hundreds of processes:
# Python keeps what it has compiled, even where it was told not to.
RUN := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# One process more than there are cores, since many tests wait for agents and trainers; with more of them trainers, which
# only get what nobody else wants, are starved. The order of tests is in tests/conftest.py.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 7) + 1)')
TEST := $(RUN) $(BIN)/python -m pytest -n $(JOBS)
# What covers the pure layers. Only these run with coverage, which takes as much time again as such tests do.
PURE := tests/core tests/rules tests/tiers tests/views tests/fog/test_fog.py

.PHONY: help venv demo test test-grove check bench clean

help:
	@echo "make demo   the whole story of one device, on this machine, in minutes; leaves runs/latest/report.html"
	@echo "make test   every test; branch coverage of the pure layers must be at least 95 %"
	@echo "make test-grove   cloud and fogs as real processes, killed and back (minutes)"
	@echo "make check  format, lint, types, layers, and every block of the README"
	@echo "make bench  speed and memory of a device, as JSON"
	@echo "make venv   only the set-up;  make clean  removes it"

venv: $(VENV)/.installed

demo: venv
	$(BIN)/evergrove demo

test: venv
	$(TEST) --dist worksteal $(PURE) --cov=evergrove.core --cov=evergrove.rules --cov=evergrove.tiers \
		--cov=evergrove.views --cov-branch --cov-report=term --cov-fail-under=95
	$(TEST) --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(PURE))

test-grove: venv
	$(RUN) $(BIN)/python -m pytest -m grove

check: venv
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(RUN) $(BIN)/python tools/readme_blocks.py README.md

bench: venv
	$(RUN) $(BIN)/evergrove bench device --json

clean:
	rm -rf $(VENV) .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# torch goes first and alone: it is the large one, and a change to the package must not fetch it again.
$(VENV)/.torch:
	@test -n "$(PYTHON)" || { echo "Evergrove needs Python 3.11 or newer; none was found on the PATH" >&2; exit 4; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt "$(TORCH)"
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[demo,dev]"
	@touch $@
