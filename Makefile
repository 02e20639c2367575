# Two commands set everything up on a machine with Python 3.11 or newer: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
# Resolved for every platform; hashes, no index addresses.
LOCK := --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header
# Two processes share the tests, those with Ray first (tests/conftest.py).
PYTEST := $(BIN)/pytest --numprocesses 2 --no-loadscope-reorder

.PHONY: demo test test-quick lint lock peers pictures clean

demo: .venv/installed
	$(BIN)/tlearn demo

test: .venv/developed
	$(PYTEST)

# Without Ray and published weights, under a minute.
test-quick: .venv/developed
	$(PYTEST) -m 'not (cluster or weights or slow or long or photographs)'

lint: .venv/developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What runs (the image installs it), and what develops, with the same versions.
lock: .venv/developed
	$(BIN)/uv pip compile pyproject.toml --extra offline --extra cpu --extra export $(LOCK) --upgrade -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --constraint requirements.lock $(LOCK) --upgrade -o requirements-dev.lock

.venv/developed: requirements-dev.lock .venv/installed
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "expected Python 3.11 or newer, got " + sys.version'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Scoring beside what else scores pictures (make peers INPUT=DIR for photographs); 20 minutes.
peers: .venv-peers/installed
	.venv-peers/bin/python tests/benchmarks/peers.py $(if $(INPUT),--input $(INPUT))

# The README's pictures of terminal and report; needs Chromium.
pictures: .venv/developed
	$(BIN)/python tests/benchmarks/pictures.py

# What is installed in .venv is seen from there too.
.venv-peers/installed: .venv/developed
	$(PYTHON) -m venv .venv-peers
	$(BIN)/python -c 'import os, sysconfig; print(sysconfig.get_path("purelib"), os.getcwd(), sep="\n")' \
	  > $$(.venv-peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	.venv-peers/bin/pip install --quiet tensorflow-cpu timm onnxruntime daft
	touch $@

clean:
	rm -rf .venv .venv-peers build *.egg-info
