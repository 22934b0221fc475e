"""The codes of a solve, and what has to be true of any record that holds them."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

import irnn_jax as irnn

CONVERGED, MAX_STEPS, UNSTABLE, LIMIT_CYCLE, NON_FINITE, SENSITIVE = irnn.Status


def assert_status(result: irnn.Equilibrium, expected: int | Sequence[int]) -> None:
    """The codes, and what has to be true of any record."""
    np.testing.assert_array_equal(result.status, expected)
    assert result.status.dtype == jnp.int32
    np.testing.assert_array_equal(result.converged, np.asarray(result.status) == CONVERGED)
    infinite = np.isinf(np.asarray(result.residual))
    np.testing.assert_array_equal(infinite, np.asarray(result.status) == NON_FINITE)
    assert not np.any(np.isnan(result.residual))
