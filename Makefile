# Everything sets up .venv by itself; only Python 3.11 or newer is needed.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q -c constraints.txt

.PHONY: help demo test test-slow check audit docs release-check docker clean
help:
	@echo "make demo       train a tiny model on phantoms and look at its samples (about 3 minutes on a CPU)"
	@echo "make test       the test suite (under 3 minutes); make test-slow: the longer tests"
	@echo "make check      lint, format, types, house rules, documents, a fuzz run, known vulnerabilities"
	@echo "make docs       write docs/cli.md anew, after commands or options changed"
	@echo "make release-check  build wheel and sdist, install the wheel into an empty environment, use it"
	@echo "make audit      known vulnerabilities of the pinned versions (asks the package index)"
	@echo "make docker     build the container image"

demo: $(VENV)/.runtime
	$(BIN)/wdm demo

test: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/pytest -m slow

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_house.py tests/test_docs.py tests/test_containers.py
	$(BIN)/pytest tests/test_fuzz.py -m slow
	$(BIN)/python tools/audit.py

docs: $(VENV)/.dev
	$(BIN)/python -m tools.cli_reference

release-check: $(VENV)/.dev
	$(BIN)/pytest -m slow tests/test_release.py

audit: $(VENV)/.dev
	$(BIN)/python tools/audit.py

docker:
	docker build -t wdm .

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer with its venv module found"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (PyTorch is large; this happens once)"
	$(PIP) -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (PyTorch is large; this happens once)"
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.runtime
