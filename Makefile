# make preferences   train a switchable-norm ResNet-20 on digits and show what each layer chose
# make check         lint, and the tests of the core (2 minutes)
# make test          the tests (10 minutes on 2 cores)
# make test-all      the full matrices as well
# make test-browser  the tests in Chromium, if that is installed
# make docs          the README, the docs and the reference as pages in site/
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/preferences
# What a change of a layer breaks first.
CORE = keras_norms tests/tools/test_imports.py tests/tools/test_public_api.py $(patsubst \
	%,tests/layers/test_%.py,laws errors masks registry precision statistics oracles)
# An idle process takes over tests of a busy one, so that both end together.
PYTEST = $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: preferences check test test-all test-browser test-torch lint format benchmark docs clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

preferences: $(VENV)/installed
	$(BIN)/python scripts/train.py --model resnet20 --norm sn --dataset digits --replicas 2 \
		--epochs 30 --learning-rate 0.4 --log-dir $(RUN) --overwrite
	$(BIN)/python scripts/preferences.py $(RUN)

check: $(VENV)/installed lint
	$(PYTEST) -m "not slow and not process" $(CORE)

test: $(VENV)/installed lint
	$(PYTEST) -m "not slow"

test-all: $(VENV)/installed lint
	$(PYTEST)

test-browser: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[browser]"
	$(PYTEST) -m browser tests

test-torch: $(VENV)/installed
	$(BIN)/python -c "import torch" || $(BIN)/pip install --disable-pip-version-check torch
	KERAS_BACKEND=torch $(PYTEST) -m "not slow and not process" tests/layers

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict

benchmark: $(VENV)/installed
	$(BIN)/python benchmarks/performance.py
	$(BIN)/python benchmarks/replicas.py --output docs/REPLICAS.md

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
