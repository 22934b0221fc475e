"""Every way to factorise, in every size and dtype, against numpy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from irnn_jax.linalg.dense import factorize, multiply_transposed

# Both sides of each threshold; 600 float32 samples of 16 are sums that XLA would hand on.
SIZES = [1, 2, 3, 4, 7, 8, 16, 17, 32, 33]


def systems(n, batch, dtype):
    """Matrices (n, n, batch) with determinants of both signs, and right-hand sides (n, batch)."""
    rng = np.random.default_rng([n, batch])
    matrices = 2 * np.eye(n)[..., None] - rng.normal(size=(n, n, batch)) / n**0.5
    matrices[0] *= np.where(np.arange(batch) % 2, 1, -1)
    return matrices.astype(dtype), rng.normal(size=(n, batch)).astype(dtype)


@pytest.mark.parametrize("batch", [1, 6, 600])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", SIZES)
def test_solves_and_the_determinants_sign(n, dtype, batch):
    matrices, rhs = systems(n, batch, dtype)

    # One call after the other: in one program three of LAPACK's loops over a batch at a time can
    # wait for each other for ever (jax 0.10 on two cores).
    factors = jax.block_until_ready(jax.jit(factorize)(jnp.asarray(matrices)))
    x = jax.block_until_ready(eqx.filter_jit(lambda f, r: f.solve(r))(factors, jnp.asarray(rhs)))
    transposed = eqx.filter_jit(lambda f, r: f.solve_transposed(r))(factors, jnp.asarray(rhs))
    jax.block_until_ready(transposed)
    positive = eqx.filter_jit(lambda f: f.determinant_is_positive())(factors)
    assert x.dtype == transposed.dtype == dtype
    samples = np.moveaxis(matrices, -1, 0).astype("float64")
    right = rhs.T[:, :, None]
    # Without pivots the error grows with the pivots' growth; refinement is for the callers.
    allowed = 1e4 * np.finfo(dtype).eps
    for found, expected in (
        (x, np.linalg.solve(samples, right)),
        (transposed, np.linalg.solve(np.swapaxes(samples, 1, 2), right)),
    ):
        error = np.abs(found.T - expected[:, :, 0]).max(axis=1)
        assert np.median(error) <= allowed / 100
        assert np.mean(error <= allowed) >= 0.99
    np.testing.assert_array_equal(positive, np.linalg.det(samples) > 0)


@pytest.mark.parametrize("n", [n for n in SIZES if n <= 32])  # not by LAPACK
def test_samples_share_a_matrix(n):
    matrices, _ = systems(n, 1, "float64")
    rhs = np.random.default_rng(n).normal(size=(n, 5))
    found = factorize(jnp.asarray(matrices)).solve(jnp.asarray(rhs))
    np.testing.assert_allclose(found, np.linalg.solve(matrices[..., 0], rhs), rtol=1e-9)


# Unrolled and by a product; a matrix that all samples share, with and without an axis for them, and
# one for each.
@pytest.mark.parametrize(
    "shape", [(3, 5), (3, 5, 1), (3, 5, 4), (40, 30), (40, 30, 1), (40, 30, 4)]
)
def test_a_transposed_product(shape):
    rng = np.random.default_rng(0)
    matrix, vector = rng.normal(size=shape), rng.normal(size=(shape[0], 4))
    each = np.broadcast_to(matrix.reshape(*shape[:2], -1), (*shape[:2], 4))
    expected = np.einsum("ijb,ib->jb", each, vector)
    found = jax.jit(multiply_transposed)(matrix, vector)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    if len(shape) == 2:
        alone = jax.jit(multiply_transposed)(matrix, vector[:, 0])
        np.testing.assert_allclose(alone, expected[:, 0], rtol=0, atol=1e-13)
