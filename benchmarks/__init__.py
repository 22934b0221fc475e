"""Measurements, each a module to run: `python -m benchmarks.NAME`. Ratios, never a timed test."""
