# make demo | test | quick | check | docs | house | bench: each installs what it needs into .venv first.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test quick test-oldest check docs audit house index bench format clean
.DEFAULT_GOAL := test

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Equipoise needs Python 3.11 or newer')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

demo: $(VENV)/installed  ## train four models on digits, attack them, print one table
	$(BIN)/equipoise demo

test: $(VENV)/installed  ## every test, one worker per core
	$(BIN)/pytest -n auto --dist worksteal $(PYTEST)

quick: $(VENV)/installed  ## the tests that are not marked slow
	$(BIN)/pytest -n auto --dist worksteal -m "not slow" $(PYTEST)

test-oldest:  ## every test with the lowest versions that pyproject.toml allows
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt PYTEST="-W default"

check: $(VENV)/installed  ## formatter, linter, types, import layers, documentation site
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --quiet
	@$(MAKE) --no-print-directory audit

docs: $(VENV)/installed  ## the documentation site, into build/site
	$(BIN)/mkdocs build --quiet

index: $(VENV)/installed  ## the index of recipes that `equipoise list` reads
	$(BIN)/python tools/recipe_index.py

house: $(VENV)/installed  ## measure how easy the code is to navigate
	$(BIN)/python tools/house.py

audit: $(VENV)/installed  ## known vulnerabilities of the pinned dependencies, if the package index can be reached
	@if $(BIN)/python -c "import socket; socket.create_connection(('pypi.org', 443), 3)" 2>/dev/null; \
	then mkdir -p build; $(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip \
	--progress-spinner off > build/audit.txt 2> build/audit.log || { cat build/audit.txt build/audit.log; exit 1; }; \
	tail -n 1 build/audit.log; \
	else echo "pip-audit left out: pypi.org cannot be reached"; fi

bench: $(VENV)/installed  ## speed benchmarks, one after another; use an otherwise idle machine
	for name in pgd_step afa_stage1 strengths inference growth precision attack_mode; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; \
	done
	$(BIN)/equipoise report --into README.md
	$(BIN)/equipoise report --into docs/speed.md

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-oldest .pytest_cache .mypy_cache .ruff_cache
