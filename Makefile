# make demo      build .venv, train on a synthetic landscape, map it, draw it
# make test      build .venv, run lint, types, import contracts and the quick tests
# make test-all  build .venv, run all of these and the slow tests, as CI does
# make docs      build .venv, write the site into build/docs and check its links
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Test modules that run at a time, each on one thread; make test JOBS=8 on eight cores.
# They start in the order of tests/conftest.py, the longest first.
JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile \
	--no-loadscope-reorder --durations 10

# Tests start hundreds of processes. Where this is set, each compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all check lint docs linkcheck figures clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/geobiomass demo --out demo

test: check
	$(PYTEST) -m "not slow"

test-all: check
	$(PYTEST)

# What of both needs no test: seconds, and a minute or two for mypy.
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

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
