#!/bin/sh
# Remakes the pinned locks from pyproject.toml (make locks).
set -eu
compile() {
    .venv/bin/uv pip compile pyproject.toml --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --generate-hashes --quiet --custom-compile-command "make locks" "$@"
}
cpu="configs/locks/torch-needs.in --override configs/locks/cpu-overrides.txt --extra cpu --extra bench"
compile $cpu --output-file configs/locks/cpu.txt
compile $cpu --group dev --constraint configs/locks/cpu.txt --output-file configs/locks/dev.txt
compile --extra gpu --extra bench --output-file configs/locks/gpu.txt
