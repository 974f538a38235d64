# Every target sets up what it needs: the first one creates .venv and installs the pinned set.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SHELL := bash
.SHELLFLAGS := -o pipefail -c

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clsweep needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	@echo 'Setting up $(VENV): PyTorch and the rest, 6 GB, some minutes. The large downloads, then the installation:'
	$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --constraint constraints.txt \
		--editable '.[dev]' | awk '/ [MG]B\)$$|^Installing/ { print substr($$0, 1, 110); fflush() }'
	@touch $@

.PHONY: setup
setup: $(READY) ## Create .venv with the pinned set

.PHONY: demo
demo: $(READY) ## Permuted-MNIST on 5,000 bundled images: a few minutes, no download
	$(BIN)/python -m clsweep +benchmark=perm_mnist dataset=mnist_5k budget=quick

.PHONY: report
report: $(READY) ## Leaderboard, figures and one page of everything in outputs/
	$(BIN)/python -m clsweep.report outputs

STORAGE ?= sqlite:///outputs/sweeps/studies.db
.PHONY: dashboard
dashboard: $(READY) ## Optuna's dashboard on the studies of a sweep: make dashboard STORAGE=sqlite:///outputs/sweeps/studies.db
	@case '$(STORAGE)' in sqlite:///*) test -s '$(STORAGE:sqlite:///%=%)' || { \
		echo 'make dashboard: $(STORAGE): no such file; expected STORAGE=sqlite:///FILE of a sweep (see search.storage).' >&2; \
		exit 2; }; esac
	$(BIN)/optuna-dashboard '$(STORAGE)'

TWO_PROCESSES := --numprocesses 2 --dist worksteal
.PHONY: test
test: $(READY) ## The tests, without the slow ones
	$(BIN)/python -m pytest $(TWO_PROCESSES)

.PHONY: test-full
test-full: $(READY) ## All tests
	$(BIN)/python -m pytest $(TWO_PROCESSES) -m 'slow or not slow'

.PHONY: lint
lint: $(READY) ## ruff, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(READY) ## The documents as a site: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

.PHONY: bench
bench: $(READY) ## Steps and importance estimates beside what the machine can do: six minutes
	$(BIN)/python scripts/benchmark.py

.PHONY: clean
clean: ## Remove .venv and caches; results stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
