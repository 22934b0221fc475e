"""Measurements, each a module to run: `python -m benchmarks.NAME`. Ratios, never a timed test."""

import os

# For all contenders of a benchmark alike: LAPACK's threads otherwise keep a core busy for a while
# after each call, and whatever comes next pays for it. Read when SciPy is loaded.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

from irnn_jax import cpu_xla_flags

# Before JAX compiles anything.
os.environ["XLA_FLAGS"] = cpu_xla_flags(os.environ.get("XLA_FLAGS", ""))
