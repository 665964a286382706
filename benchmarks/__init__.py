"""Benchmarks: one row of `make bench` is one file of `rows`, which `python -m benchmarks` finds by being there."""
