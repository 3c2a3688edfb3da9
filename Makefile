# make preferences   train a switchable-norm ResNet-20 on digits and show what each layer chose
# make test          the tests (15 minutes at most on 2 cores)
# make test-all      the full matrices as well
# make docs          the README, the docs and the reference as pages in site/
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
RUN ?= runs/preferences
# Tests that need no TensorFlow.
NEUTRAL = $(patsubst %,tests/test_%.py,laws masks precision errors oracles serialization properties \
	registry optimizers statistics)

.PHONY: preferences test test-all test-torch lint format benchmark docs clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

preferences: $(VENV)/installed
	$(BIN)/python scripts/train.py --model resnet20 --norm sn --dataset digits --replicas 2 \
		--epochs 30 --learning-rate 0.4 --log-dir $(RUN) --overwrite
	$(BIN)/python scripts/preferences.py $(RUN)

test: $(VENV)/installed lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/installed lint
	$(BIN)/python -m pytest -n 2

test-torch: $(VENV)/installed
	$(BIN)/python -c "import torch" || $(BIN)/pip install --disable-pip-version-check torch
	KERAS_BACKEND=torch $(BIN)/python -m pytest -n 2 -m "not slow" $(NEUTRAL)

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

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
