# make test: lint (ruff, and the import contracts), types and tests. make demo: a report and a short training run. make docs: the
# documentation as a site. All of them make .venv first.
# PYTHON is the interpreter (3.11 or later) that .venv is made with; PYTEST_FLAGS go to pytest.

PYTHON ?= python3
PYTEST_FLAGS ?= --quiet

bin := .venv/bin
installed := .venv/installed
docs_installed := .venv/docs-installed

MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.PHONY: .venv test lint types unit demo docs clean

.venv: $(installed)

# One pip command, so that torch and torchvision are resolved together. The stamp makes it run again only when
# pyproject.toml changes.
$(installed): pyproject.toml
	$(PYTHON) -m venv .venv
	$(bin)/python -m pip install --quiet --progress-bar off --disable-pip-version-check --no-input --editable '.[dev]'
	touch $@

test: lint types unit

lint: $(installed)
	$(bin)/ruff check .
	$(bin)/lint-imports --no-cache --no-logo

types: $(installed)
	$(bin)/mypy

# One process a core, up to four, of one thread each; a file's tests stay together.
unit: $(installed)
	OMP_NUM_THREADS=1 $(bin)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(PYTEST_FLAGS)

demo: $(installed)
	$(bin)/lowmode-fx report resnet18
	$(bin)/python -m lowmode_fx.cli.demo --out runs/demo --overwrite

# Warnings are errors: a broken link, a missing anchor, a page outside the navigation.
docs: $(docs_installed)
	NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict
	@echo "open site/index.html, or, for its search: python -m http.server --directory site"

$(docs_installed): $(installed)
	$(bin)/python -m pip install --quiet --progress-bar off --disable-pip-version-check --no-input --editable '.[docs]'
	touch $@

# Runs other than the demo's are somebody's results, and .venv is slow to make: both stay.
clean:
	rm -rf build dist site *.egg-info runs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
