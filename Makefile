PYTHON ?= python3
CONFIG ?= configs/cpu.yaml

.PHONY: setup clients demo serve test test-unit test-long attack check openapi locks audit model bench bench-gpu chaos soak dashboard observe
setup: ; @$(PYTHON) configs/locks/install.py
clients: ; @$(PYTHON) configs/locks/install.py clients
demo: setup ; @.venv/bin/dear demo --config $(CONFIG)
serve: setup ; @exec .venv/bin/dear serve --config $(CONFIG)
test: setup clients ; @.venv/bin/python -m pytest -n 3 --no-loadscope-reorder -m "not long"
test-unit: setup ; @.venv/bin/python -m pytest -n 3 -m "not (e2e or integration or long)" --ignore tests/test_app.py --ignore tests/inside_vllm/test_cpu_lora.py
attack: setup ; @.venv/bin/python -m pytest -n 3 -m "attack and not long"
test-long: setup clients ; @.venv/bin/python -m pytest --hypothesis-profile long -m "long or hypothesis"
check: setup ; @.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/python -m pytest -q tests/test_layers.py \
	&& .venv/bin/python -m dear_serving.http | diff --unified configs/openapi.json -
openapi: setup ; @.venv/bin/python -m dear_serving.http > configs/openapi.json.new && mv configs/openapi.json.new configs/openapi.json
dashboard: setup ; @.venv/bin/python -m configs.observability
audit: ; @$(PYTHON) configs/locks/audit.py
locks: setup ; @sh configs/locks/compile.sh
model: setup ; @.venv/bin/python -m configs.demo.maker.train --seed 0 --out configs/demo
bench: setup ; @.venv/bin/python -m benchmarks --out benchmarks/results
# As root: a cluster on this machine, whose parts are killed under load.
chaos: setup ; @.venv/bin/python -m benchmarks.chaos --out benchmarks/results/chaos
MINUTES ?= 3
soak: setup ; @.venv/bin/python -m benchmarks.soak --minutes $(MINUTES) --out dist/soak
# With Debian's prometheus: two minutes of load, and the dashboard as pictures.
observe: setup ; @.venv/bin/python -m benchmarks.observe --out dist/observe
SHAPE ?= 8b
# On a machine with CUDA; MODEL=FOLDER ADAPTER=FOLDER for a real model instead of a shape.
bench-gpu: setup ; @.venv/bin/python -m benchmarks --only decoders,serving,adapters --out benchmarks/results/gpu \
	$(if $(MODEL),--model $(MODEL) --adapter $(ADAPTER),--shape $(SHAPE))
