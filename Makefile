# Every target makes what it needs. `make demo` and `make test` are the two to begin with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-full test-peers lint clean

install: $(INSTALLED)

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

# Train a small GPT on Python's own documentation, export it in every format, verify each, generate from all of them.
demo: install
	$(BIN)/zoo demo --out demo --force

# The suite a user runs: every unit and contract, on two cores.
test: install
	$(BIN)/python -m pytest -m "not full and not peers" --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The matrices: long, for a release.
test-full: install
	$(BIN)/python -m pytest -m "full" --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Comparisons with other libraries' own code: installs PyTorch and JAX (CPU) into the environment first.
test-peers: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,peers]'
	$(BIN)/python -m pytest -m "peers"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build *.egg-info
