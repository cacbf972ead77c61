#!/bin/sh
# Remakes the pinned locks from pyproject.toml and clients.in (make locks).
set -eu
compile() {
    .venv/bin/uv pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --generate-hashes --quiet --custom-compile-command "make locks" "$@"
}
cpu="pyproject.toml configs/locks/torch-needs.in --override configs/locks/cpu-overrides.txt"
cpu="$cpu --extra cpu --extra bench"
compile $cpu --output-file configs/locks/cpu.txt
compile $cpu --group dev --constraint configs/locks/cpu.txt --output-file configs/locks/dev.txt
compile pyproject.toml --extra gpu --extra bench --output-file configs/locks/gpu.txt
compile configs/locks/clients.in --output-file configs/locks/clients.txt
compile configs/locks/audit.in --output-file configs/locks/audit.txt
