"""What is not a number stays one, however many samples there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax.xla.max_norm import max_norm


# From some 4,096 numbers on XLA takes another way to a maximum, in which NaN is lost.
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", [(1,), (7, 6), (7, 1000), (300,), (300, 100), (66, 3, 40)])
def test_a_nan_is_never_lost(shape, dtype):
    rng = np.random.default_rng(0)
    values = np.asarray(rng.normal(size=shape), dtype)
    np.testing.assert_array_equal(jax.jit(max_norm)(values), np.max(np.abs(values), axis=0))
    for row in (0, -1):
        bad = values.copy()
        bad[row] = np.nan
        assert np.all(np.isnan(jax.jit(max_norm)(bad)))
    bad = values.reshape(len(values), -1).copy()
    bad[-1, -1] = np.nan
    assert np.isnan(jax.jit(max_norm)(bad)).tolist() == [False] * (bad.shape[1] - 1) + [True]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", [(6, 1), (1000, 7), (6, 8), (100, 66), (3, 300)])
def test_of_rows(shape, dtype):
    """Of each of them, wherever the NaN is."""
    rows = jax.jit(lambda values: max_norm(values, axis=1, keepdims=True))
    values = np.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    np.testing.assert_array_equal(rows(values), np.max(np.abs(values), axis=1, keepdims=True))
    for column in range(0, shape[1], 5):
        bad = values.copy()
        bad[-1, column] = np.nan
        assert np.isnan(rows(bad))[:, 0].tolist() == [False] * (shape[0] - 1) + [True]


def test_an_empty_state_is_at_rest():
    assert max_norm(jnp.zeros((0, 3))).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("hidden", "batch"), [(5, 6), (5, 1000), (300, 100)])
def test_weights_that_are_not_numbers_are_flagged_in_any_batch(hidden, batch, getkey):
    net = irnn.init(getkey(), (10, hidden, 2))
    first, last = net.layers
    assert first.lateral is not None
    broken = first._replace(lateral=first.lateral.at[0, 1].set(jnp.nan))
    result = irnn.equilibrium(
        net._replace(layers=(broken, last)), jax.random.normal(getkey(), (batch, 10))
    )
    assert np.all(result.status == irnn.Status.NON_FINITE)
    assert np.all(np.isinf(result.residual))
