"""Prompts, windows and permutations: pure code, no I/O, no ray, vllm, fastapi or torch."""
