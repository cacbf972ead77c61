PYTHON ?= python3
CONFIG ?= configs/cpu.yaml

.PHONY: setup demo serve test check locks model bench
setup: ; @$(PYTHON) configs/locks/install.py
demo: setup ; @.venv/bin/dear demo --config $(CONFIG)
serve: setup ; @exec .venv/bin/dear serve --config $(CONFIG)
test: setup ; @.venv/bin/python -m pytest
check: setup ; @.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/python -m pytest -q tests/test_layers.py
locks: setup ; @sh configs/locks/compile.sh
model: setup ; @.venv/bin/python -m benchmarks.demo_model.train --seed 0 --out configs/demo
bench: setup ; @.venv/bin/python -m benchmarks --out benchmarks/results
