"""Benchmarks: what the engine does in a second, beside raw drivers that write the same rows: `python -m benchmarks`."""
