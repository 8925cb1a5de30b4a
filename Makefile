# make demo | test | check | docs | bench: each installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
export NO_MKDOCS_2_WARNING := 1

.PHONY: demo test check docs audit bench format clean
.DEFAULT_GOAL := test

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Equipoise needs Python 3.11 or newer')"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: .venv/installed  ## train four models on digits, attack them, print one table
	$(BIN)/equipoise demo

test: .venv/installed  ## every test
	$(BIN)/pytest

check: .venv/installed  ## formatter, linter, types, import layers, documentation site
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --quiet
	@$(MAKE) --no-print-directory audit

docs: .venv/installed  ## the documentation site, into build/site
	$(BIN)/mkdocs build --quiet

audit: .venv/installed  ## known faults of the pinned dependencies, where the index can be reached
	@if $(BIN)/python -c "import socket; socket.create_connection(('pypi.org', 443), 3)" 2>/dev/null; \
	then mkdir -p build; $(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip \
	--progress-spinner off > build/audit.txt 2> build/audit.log || { cat build/audit.txt build/audit.log; exit 1; }; \
	tail -n 1 build/audit.log; \
	else echo "pip-audit left out: pypi.org cannot be reached"; fi

bench: .venv/installed  ## speed, one benchmark after the other; the machine should do nothing else
	for name in pgd_step afa_stage1 strengths inference growth precision; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; \
	done
	$(BIN)/equipoise report --into README.md

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
