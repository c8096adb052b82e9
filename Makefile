# make demo   build .venv, train on a synthetic landscape, map it, draw it
# make test   build .venv, run lint, types and the whole suite
# make docs   build .venv, write the site into build/docs and check its links
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint docs linkcheck figures clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/geobiomass demo --out demo

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --durations 25

lint: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/sphinx-build -W --keep-going -n --fresh-env -q -b html docs build/docs
	$(BIN)/python docs/links.py build/docs

# Addresses outside of the site; the only target here that asks the internet.
linkcheck: $(READY)
	$(BIN)/sphinx-build -b linkcheck docs build/linkcheck

# The pictures of the pages, without those of the two demonstrations (--all).
figures: $(READY)
	$(BIN)/python docs/figures/make.py

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and "geobiomass needs Python 3.11 or later, and $(PYTHON) is " + v + ". Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
