"""Measurements, each a module to run: `python -m benchmarks.NAME`. Ratios, never a timed test."""

import os

from irnn_jax import CPU_XLA_FLAGS

# For all contenders of a benchmark alike, and before JAX compiles anything.
os.environ["XLA_FLAGS"] = f"{CPU_XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}"
