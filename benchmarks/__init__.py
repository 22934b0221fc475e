"""Measurements, each a module to run: `python -m benchmarks.NAME`. Ratios, never a timed test."""

import os

from irnn_jax import cpu_xla_flags

# For all contenders of a benchmark alike, and before JAX compiles anything.
os.environ["XLA_FLAGS"] = cpu_xla_flags(os.environ.get("XLA_FLAGS", ""))
