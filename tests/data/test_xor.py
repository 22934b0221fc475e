"""The XOR table, and that importing the data sets leaves JAX unconfigured."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from irnn_jax.data import patterns


def test_patterns_are_the_papers_table():
    inputs, targets = patterns()
    np.testing.assert_array_equal(inputs, [[0, 0], [0, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(targets[:, 0], [0, 1, 1, 0])  # figs. 3 and 5, Y_gt1
    np.testing.assert_array_equal(targets[:, 1], [0, 1, 0, 0])  # fig. 5, Y_gt2


def test_patterns_have_the_default_float_unless_told():
    for x64, default in ((True, jnp.float64), (False, jnp.float32)):
        with jax.enable_x64(x64):
            assert [leaf.dtype for leaf in patterns()] == [default, default]
            assert [leaf.dtype for leaf in patterns(jnp.float32)] == [jnp.float32, jnp.float32]


def test_patterns_under_jit():
    for actual, expected in zip(jax.jit(patterns)(), patterns(), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_import_starts_no_backend():
    # A platform that does not exist: the first array made would raise.
    code = "import irnn_jax.data, jax; print('imported'); jax.devices()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JAX_PLATFORMS": "nonexistent", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "imported", result.stderr
    assert result.returncode != 0  # the platform is indeed unusable, so the test can fail
