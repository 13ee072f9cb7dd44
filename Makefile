# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test slow bench lint format types docs-check clean lock

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

# uv installs the pinned set in seconds where pip takes minutes; it lives inside the environment, so nothing is installed by hand.
$(READY): pins.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "unlabeled needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; run make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r pins.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $(READY)

demo: $(READY)  ## train on photographs that ship with the dependencies, score, write a report
	$(BIN)/unlabeled demo --out runs/demo --if-exists replace

test: $(READY)  ## the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY)  ## every test, the slow ones too
	$(BIN)/python -m pytest -m ''

bench: $(READY)  ## the benchmarks, as ratios measured in one run
	$(BIN)/python -m benchmarks

lint: $(READY)  ## style and format, as CI checks them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## strict type check of the package
	$(BIN)/pyright

lock: $(READY)  ## resolve the dependencies anew into pins.txt (no addresses inside)
	$(BIN)/uv pip compile --quiet --universal --all-extras --group dev --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade pyproject.toml -o pins.txt

clean:  ## remove the environment and the caches
	rm -rf $(VENV) .pytest_cache .ruff_cache
