# make demo: the whole flow on an archive made on the spot; make test: everything CI checks. Both install into .venv first.
# make test-python PYTHON=python3.13: the tests on another Python, in an environment of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ONLY ?=
STUDY ?=

.PHONY: install install-dev demo test test-python lint bench grids study-objectives clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(VENV)/.installed $@

demo: install
	$(BIN)/eo-ssl run --config demo

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-python:
	$(MAKE) install-dev VENV=.venv-$(notdir $(PYTHON))
	.venv-$(notdir $(PYTHON))/bin/python -m pytest -n 2 --dist loadfile $(ONLY)

bench: install-dev
	@$(BIN)/python -m bench $(ONLY)

grids: install-dev
	$(BIN)/python -m bench.grids

# Every method on sample archives and real scenes, a night on two cores; STUDY='--archives 1 --seeds 1 --steps 100' is thinner.
study-objectives: install-dev
	$(BIN)/python -m bench.study_objectives $(STUDY)

clean:
	rm -rf runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
