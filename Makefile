PYTHON ?= python3
BIN := .venv/bin

# Tests start many programs; each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test cover check slow bench scaling clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

demo: .venv/installed  ## install, then replace a real network by one that needs fewer joules
	$(BIN)/joulewise demo

test: .venv/developing check  ## install, then lint, type-check and run all tests but the slow ones
	$(BIN)/pytest -n 2 -m "not slow"

cover: .venv/developing  ## the same tests with coverage, which takes twice as long
	$(BIN)/pytest -n 2 -m "not slow" --cov

check: .venv/developing  ## lint, types and layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: .venv/developing  ## the tests on real models, minutes each
	$(BIN)/pytest -n 2 --dist loadfile -m slow --durations 20

bench: .venv/developing  ## optimisers side by side, hours; WORKLOAD="demo r8" some of them, PEER="nncf olive" against some (records go to out-field), SHORT=1 a short look, AT_ONCE=2 two at once, each on half of the CPUs; what was made is kept in out-field, to go on from there
	$(BIN)/python -m benchmarks.field $(WORKLOAD) $(if $(PEER),--peers $(PEER)) $(if $(AT_ONCE),--at-once $(AT_ONCE)) $(if $(SHORT),--short,--folder out-field -o $(if $(PEER),out-field/records,records))
	$(if $(SHORT)$(PEER),,$(BIN)/python -m benchmarks.field.page)

scaling: .venv/developing  ## what batch, model and data cost us and others that search
	$(BIN)/python -m benchmarks.field --scaling --folder out-field -o records
	$(BIN)/python -m benchmarks.field.page

clean:  ## remove the environment and what tools left behind
	rm -rf .venv out-field .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[all]'
	touch $@

.venv/developing: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --no-compile torch==2.13.0  # by this name a wheel on disk is found, if there is one
	$(BIN)/pip install --quiet --no-compile -e '.[dev]'
	$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null || true  # on all CPUs; pip uses one
	touch $@
