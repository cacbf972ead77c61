"""A cluster on one machine whose parts are killed under load: python -m benchmarks.chaos."""
