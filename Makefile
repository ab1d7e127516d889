# The two commands: `make bench` and `make test`. Both build .venv first where it is missing.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
INSTALLED_RELEASE := $(VENV)/.installed-release
PYTEST := $(BIN)/pytest -n 2 --dist worksteal

.PHONY: help bench test docs pages versions release format clean

help:
	@echo "make bench    measure; writes bench-results/ (ARGS='--help' lists the options)"
	@echo "make test     format, lint, types, tests and doctests: what CI runs"
	@echo "make docs     build the documentation into site/; a broken link or reference fails"
	@echo "make pages    write the tables of README.md and docs/ from docs/results/"
	@echo "make versions run the suites with the oldest and newest PyTorch, JAX and Python: docs/versions.md"
	@echo "make release  build and check what would be released (ARGS=--tag also tags it)"
	@echo "make format   rewrite the code as 'make test' wants it"
	@echo "make clean    remove caches and builds; keeps $(VENV) and bench-results/"
	@echo "PYTHON=...    the interpreter that builds $(VENV): Python 3.11 or newer"

bench: $(INSTALLED)
	$(BIN)/jetfold bench $(ARGS)

# One thread per worker: two workers with a thread pool each would fight for the cores. Neighbours in
# a file share what they compile: worksteal leaves them together. Modules are compiled once, not by
# every worker.
# The suite of each framework runs as if the other were not installed.
test: export PYTHONDONTWRITEBYTECODE :=
test: export OMP_NUM_THREADS := 1
test: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	JETFOLD_WITHOUT="jax jaxlib flax equinox folx" $(PYTEST) tests/torch tests/collapse/test_backend.py
	JETFOLD_WITHOUT=torch $(PYTEST) tests/jax tests/collapse/test_loops.py
	$(PYTEST) --ignore=tests/torch --ignore=tests/jax \
	  --ignore=tests/collapse/test_backend.py --ignore=tests/collapse/test_loops.py

docs: $(INSTALLED_DOCS)
	$(BIN)/mkdocs build --strict $(ARGS)

release: $(INSTALLED_RELEASE)
	$(BIN)/python tools/release.py $(ARGS)

pages: $(INSTALLED)
	$(BIN)/jetfold pages $(ARGS)

versions:
	$(PYTHON) tools/versions.py $(ARGS)

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	    echo "jetfold needs Python 3.11 or newer; there is no '$(PYTHON)' here." \
	         "Install it, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "jetfold needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	         "Name another: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; } >&2
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[torch,jax,jax-bench,dev]'
	@touch $@

# What only these commands need is installed by them alone.
$(INSTALLED_DOCS) $(INSTALLED_RELEASE): $(VENV)/.installed-%: $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[$*]'
	@touch $@
