"""The batched GMRES against numpy's direct solve."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from irnn_jax.linalg.krylov import RESTART, gmres
from irnn_jax.linalg.layout import NEURONS_FIRST


def _systems(n, batch, spread, seed=0):
    """Matrices (n, n, batch), of eigenvalues within `spread` of one, and right-hand sides."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, n, batch)) * np.linspace(0.1, spread, batch) / np.sqrt(n)
    return np.eye(n)[:, :, None] - noise, rng.normal(size=(n, batch))


def _solve(matrices, rhs, tolerance):
    def operator(x):
        return jnp.einsum("ijb,jb->ib", jnp.asarray(matrices), x)

    return jax.jit(lambda rhs: gmres(operator, rhs, tolerance, NEURONS_FIRST))(rhs)


def _direct(matrices, rhs):
    return np.stack(
        [np.linalg.solve(matrices[:, :, b], rhs[:, b]) for b in range(rhs.shape[1])], axis=1
    )


# Three times RESTART unknowns at a spread of 0.95: more than one cycle.
@pytest.mark.parametrize(("n", "spread"), [(1, 0.5), (5, 3.0), (3 * RESTART, 0.95)])
def test_each_sample_is_solved_to_the_tolerance(n, spread):
    matrices, rhs = _systems(n, 7, spread)
    x = _solve(matrices, rhs, 1e-12)
    residual = np.linalg.norm(rhs - np.einsum("ijb,jb->ib", matrices, x), axis=0)
    assert np.all(residual <= 2e-12 * np.linalg.norm(rhs, axis=0))
    assert_allclose(x, _direct(matrices, rhs), rtol=0, atol=1e-9)


def test_a_loose_tolerance_is_kept_and_not_exceeded_by_far():
    matrices, rhs = _systems(40, 9, 0.8)
    x = _solve(matrices, rhs, 1e-3)
    residual = np.linalg.norm(rhs - np.einsum("ijb,jb->ib", matrices, x), axis=0)
    relative = residual / np.linalg.norm(rhs, axis=0)
    assert np.all(relative <= 1e-3)
    assert np.max(relative) > 1e-8


def test_a_sample_without_a_solution_changes_nothing_for_the_others():
    matrices, rhs = _systems(6, 4, 0.5)
    expected = _direct(matrices, rhs)
    matrices, rhs = matrices.copy(), rhs.copy()
    matrices[:, :, 1] = 0.0  # singular
    rhs[2, 2] = np.nan
    rhs[:, 3] = 0.0
    x = _solve(matrices, rhs, 1e-12)
    assert_allclose(x[:, 0], expected[:, 0], rtol=0, atol=1e-11)
    np.testing.assert_array_equal(x[:, 3], 0)
    assert np.all(np.isnan(x[:, 2]))
    assert np.all(x[:, 1] == 0)


def test_a_matrix_that_turns_every_vector_is_solved():
    # r and A r are orthogonal: methods that divide by their product break down.
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])[:, :, None]
    x = _solve(turn, np.array([[1.0], [2.0]]), 1e-12)
    assert_allclose(x[:, 0], [-2.0, 1.0], rtol=0, atol=1e-12)
