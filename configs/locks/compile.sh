#!/bin/sh
# Remakes the pinned locks from pyproject.toml and clients.in (make locks).
set -eu
compile() {
    .venv/bin/uv pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --generate-hashes --quiet --custom-compile-command "make locks" "$@"
}
cpu="pyproject.toml configs/locks/torch-needs.in --override configs/locks/cpu-overrides.txt"
# What several machines need is in every server's lock, and so in the images of configs/docker.
cluster="--extra postgres --extra redis --extra s3"
cpu="$cpu --extra cpu --extra bench $cluster"
compile $cpu --output-file configs/locks/cpu.txt
compile $cpu --group dev --constraint configs/locks/cpu.txt --output-file configs/locks/dev.txt
compile pyproject.toml --extra gpu --extra bench $cluster --output-file configs/locks/gpu.txt
compile configs/locks/clients.in --output-file configs/locks/clients.txt
compile configs/locks/build.in --constraint configs/locks/dev.txt --output-file configs/locks/build.txt
compile configs/locks/audit.in --output-file configs/locks/audit.txt
