# Everything starts here: `make demo`, `make test`, `make bench`. `make help` lists the rest.
#
# Needs Python >= 3.11, make and pip's network; a C compiler makes the compiled build possible.
# PYTHON=… names another interpreter, ARGS=… is handed to the command a target runs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPILED := build/compiled
PIP_INSTALL = HEADGATE_COMPILE=0 $(BIN)/python -m pip install --disable-pip-version-check -q \
	-c constraints.txt
PYTEST = $(BIN)/python -m pytest
# System tests have a cluster for each worker; more workers than two only wait for the cores.
PYTEST_PARALLEL ?= -n 2 --dist loadfile
# Tests that the compiled build runs again: those of compiled modules, and those of statements on
# their way through a whole proxy. What the others test (the demo, the command line, settings,
# documents, signals, worker processes) is the same Python in both builds, and not on that way.
COMPILED_TESTS = $(addprefix tests/unit/,auth hooks plugins pool protocol routing server session sql) \
	$(filter-out $(addprefix tests/system/test_,check.py demo.py lifecycle.py workers.py), \
	$(wildcard tests/system/test_*.py))
COVERAGE_TESTS = $(addprefix tests/unit/,protocol auth session routing) \
	tests/unit/pool/test_assignment.py tests/unit/hooks/test_refused.py \
	$(wildcard tests/unit/hooks/test_pipeline*.py)
# A machine that others use can make a test late. What failed runs once more, one after the other,
# and the report above it stays; what fails again has failed.
AGAIN := --last-failed --last-failed-no-failures none -p no:randomly
HAS_COMPILER = $(BIN)/python -c 'import sys, hatch_build as h; sys.exit(not h.has_compiler())'
SOURCES = $(shell find proxy hatch_build.py -name '*.py' -o -name '*.c' 2>/dev/null)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test coverage lint format test-python test-compiled compiled bench fuzz soak chaos \
	mutants drivers wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "%-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A virtual environment whose interpreter is gone or too old is made again.
$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Headgate needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." \
		"Name another: make PYTHON=/path/to/python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ echo "'$(PYTHON) -m venv' failed; on Debian: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/installed-demo: $(VENV)/made pyproject.toml constraints.txt
	$(PIP_INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/installed-test: $(VENV)/made pyproject.toml constraints.txt
	$(PIP_INSTALL) -e '.[test]'
	@touch $@ $(VENV)/installed-demo

demo: $(VENV)/installed-demo  ## a primary, a standby, plugins and the proxy; ARGS=--check runs the tour
	@$(BIN)/headgate demo $(ARGS)

test: $(VENV)/installed-test lint  ## lint, the whole suite, and the hot path again on the compiled build
	@$(HAS_COMPILER) || echo "no C compiler here: the compiled build is not tested"
	@# What `coverage` runs, in the same Python, is not run twice.
	$(MAKE) --no-print-directory test-python ARGS='$(addprefix --ignore=,$(COVERAGE_TESTS))'
	@# One core compiles while the other counts branches.
	@if $(HAS_COMPILER); then $(MAKE) --no-print-directory -j2 coverage compiled && \
		$(MAKE) --no-print-directory test-compiled; \
	else $(MAKE) --no-print-directory coverage; fi

lint: $(VENV)/installed-test  ## ruff, its formatter's check, and mypy strict
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy --no-error-summary proxy tests benchmarks hatch_build.py

format: $(VENV)/installed-test  ## format the sources
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

# Their own unit tests only, in one process; what is measured is in pyproject.toml. Tests take
# several times as long as without.
coverage: $(VENV)/installed-test  ## the pure core's branches, by its own unit tests: all or it fails
	@mkdir -p build
	$(BIN)/python -m coverage run -m pytest --timeout 300 $(or $(ARGS),$(COVERAGE_TESTS))
	$(BIN)/python -m coverage report

test-python: $(VENV)/installed-test  ## the whole suite, interpreted
	$(PYTEST) $(PYTEST_PARALLEL) $(ARGS) || $(PYTEST) $(AGAIN)

# A copy of the tree, in which the libraries lie beside the sources and win on import.
$(COMPILED)/made: $(SOURCES) | $(VENV)/installed-test
	@touch $(VENV)/compiling
	$(BIN)/python hatch_build.py $(COMPILED)
	@# As old as its beginning: a source that changed meanwhile is compiled the next time.
	@touch -r $(VENV)/compiling $@

compiled: $(COMPILED)/made  ## the tree with its hot modules compiled, in build/compiled

test-compiled: compiled
	@# Tests and examples may be newer than the compiled modules.
	@$(BIN)/python hatch_build.py --refresh $(COMPILED)
	cd $(COMPILED) && export PYTHONPATH="$(CURDIR)/$(COMPILED)" && \
		{ "$(CURDIR)/$(BIN)/python" -m pytest $(PYTEST_PARALLEL) $(or $(ARGS),$(COMPILED_TESTS)) || \
		"$(CURDIR)/$(BIN)/python" -m pytest $(AGAIN); }

bench: compiled  ## the benchmark table against PgBouncer; ARGS='--seconds 5'
	$(BIN)/python -m benchmarks.run --compiled $(COMPILED) $(ARGS)

fuzz: $(VENV)/installed-test  ## endless input for as long as HEADGATE_FUZZ_SECONDS says
	HYPOTHESIS_PROFILE=deep $(PYTEST) -m fuzz --timeout 0 $(ARGS)

soak: $(VENV)/installed-test  ## long runs that watch memory, descriptors and pools
	$(PYTEST) -m soak --timeout 0 $(ARGS)

chaos: $(VENV)/installed-test  ## cuts, delays and kills under traffic
	$(PYTEST) -m chaos --timeout 0 $(ARGS)

mutants: $(VENV)/installed-test  ## each rule of the protocol taken away: its test must fail
	$(BIN)/python -m tests.mutants.runner $(ARGS)

drivers: $(VENV)/installed-test  ## other people's drivers and tools through the proxy
	$(PYTEST) -m drivers --timeout 0 $(ARGS)

wheel: $(VENV)/installed-test  ## the wheel, compiled where there is a compiler
	$(BIN)/python -m pip wheel --disable-pip-version-check -q --no-deps -w dist .

clean:  ## remove what was built, the environment included
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
