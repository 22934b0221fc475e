"""Measurements, each a module to run: `python -m benchmarks.NAME`. Ratios, never a timed test.

Without flags for XLA, as users run their programs.
"""

import os

# For all contenders of a benchmark alike: LAPACK's threads otherwise keep a core busy for a while
# after each call, and whatever comes next pays for it. Read when SciPy is loaded.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
