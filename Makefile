# make demo: the whole flow on an archive made on the spot; make test: everything CI checks. Both install into .venv first.
# make test-python PYTHON=python3.13: the tests on another Python, in an environment of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ONLY ?=
# The versions that this library was tested with on the environment's Python.
CONSTRAINTS = constraints/$$($(BIN)/python -c 'import sys; print("py%d%d" % sys.version_info[:2])').txt
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)

.PHONY: install install-dev demo test test-python lint bench grids clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml $(wildcard constraints/*.txt)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml $(wildcard constraints/*.txt)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[dev]'
	touch $(VENV)/.installed $@

demo: install
	$(BIN)/eo-ssl run --config demo

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

test-python:
	$(MAKE) install-dev VENV=.venv-$(notdir $(PYTHON))
	.venv-$(notdir $(PYTHON))/bin/python -m pytest $(ONLY)

bench: install-dev
	@$(BIN)/python -m bench $(ONLY)

grids: install-dev
	$(BIN)/python -m bench.grids

clean:
	rm -rf runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
