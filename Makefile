PYTHON ?= python3
CONFIG ?= configs/cpu.yaml

.PHONY: setup clients demo serve test check locks model bench
setup: ; @$(PYTHON) configs/locks/install.py
clients: ; @$(PYTHON) configs/locks/install.py clients
demo: setup ; @.venv/bin/dear demo --config $(CONFIG)
serve: setup ; @exec .venv/bin/dear serve --config $(CONFIG)
test: setup clients ; @.venv/bin/python -m pytest -n 4 -m "not e2e" && .venv/bin/python -m pytest -m e2e
check: setup ; @.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/python -m pytest -q tests/test_layers.py
locks: setup ; @sh configs/locks/compile.sh
model: setup ; @.venv/bin/python -m configs.demo.maker.train --seed 0 --out configs/demo
bench: setup ; @.venv/bin/python -m benchmarks --out benchmarks/results
