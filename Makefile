# Everything runs from .venv, which the first command makes. PYTHON names another interpreter than python3.

PYTHON ?= python3
LISTEN ?= 127.0.0.1:8080
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.installed-test

.DEFAULT_GOAL := help
.PHONY: help demo install test lint types pytest check load bench hostile faults changes sticky tls trace clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) ## three example servers and the router in front of them (LISTEN=127.0.0.1:8080 TRACE=1)
	@$(BIN)/router demo --listen $(LISTEN) $(if $(filter-out 0,$(TRACE)),--trace $(patsubst 1,127.0.0.1:16687,$(TRACE)))

install: $(INSTALLED) ## leave the command in .venv/bin/router
	@echo "installed: $(BIN)/router"

test: lint types pytest ## lint, types and tests

lint: $(TESTABLE) ## format and lint, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(TESTABLE) ## mypy --strict on router/ and plugins/
	$(BIN)/mypy --strict

pytest: $(TESTABLE)
	$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

check: lint types ## lint and types, without the tests

load: $(INSTALLED) ## drive the router with locust and check what comes of it (ARGS=--help)
	$(BIN)/python loadtests/load.py $(ARGS)

bench: $(INSTALLED) ## measure the router beside its peers (ARGS=--help)
	$(BIN)/python loadtests/side_by_side.py $(ARGS)

hostile: $(INSTALLED) ## measure the router under hostile clients (ARGS=--quick)
	$(BIN)/python loadtests/hostile.py $(ARGS)

faults: $(INSTALLED) ## break servers under load and count what clients see (ARGS=--quick)
	$(BIN)/python loadtests/faults.py $(ARGS)

changes: $(INSTALLED) ## change everything under load and count what clients see (ARGS=--quick)
	$(BIN)/python loadtests/changes.py $(ARGS)

sticky: $(INSTALLED) ## keep sessions where they are while servers come and go, and forge them (ARGS=--quick)
	$(BIN)/python loadtests/affinity.py $(ARGS)

tls: $(INSTALLED) ## measure TLS, swap certificates under load, try clients, testssl and ACME (ARGS=--quick)
	$(BIN)/python loadtests/tls.py $(ARGS)

trace: $(TESTABLE) ## measure tracing, and collectors that are slow, hang, or come back (ARGS=--quick)
	@$(PIP) install rotel==0.0.1a15
	$(BIN)/python loadtests/tracing.py $(ARGS)

clean: ## remove .venv and everything that tools leave behind
	rm -rf $(VENV) build dist load-report .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A test set-up holds all that a plain one does.
$(TESTABLE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the router and its test tools into $(VENV)"
	@$(PIP) install --constraint constraints.txt --editable '.[yaml,test]'
	@touch $(INSTALLED) $@

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing the router into $(VENV)"
	@$(PIP) install --constraint constraints.txt --editable '.[yaml]'
	@touch $@

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || \
		{ echo "$(PYTHON) is not installed; Python 3.11 or later is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$$("$(PYTHON)" --version) is too old; 3.11 or later is needed: make PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV)
