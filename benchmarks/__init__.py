"""Measures the server beside its peers; `python -m benchmarks` runs everything and writes the report."""
