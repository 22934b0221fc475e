"""Networks that `vmap` adds come beside each other, or one after the other where they are large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from irnn_jax.xla.batch_last import batch_last
from irnn_jax.xla.tuning import ALONE_FROM

NETWORKS = 3


# The order of the arguments says nothing: what belongs to a sample may come after the matrix.
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("count", [5, pytest.param(ALONE_FROM, id="many")])
def test_networks_of_many_samples_get_no_matrix_a_sample(order, count):
    matrices = jnp.arange(NETWORKS * 4, dtype=float).reshape(NETWORKS, 2, 2, 1)
    vectors = jnp.arange(NETWORKS * 2 * count, dtype=float).reshape(NETWORKS, 2, count)
    numbers = jnp.arange(NETWORKS * count, dtype=float).reshape(NETWORKS, count)
    seen = []

    def affine(*arguments):
        matrix, vector, number = (arguments[order.index(i)] for i in range(3))
        seen.append(matrix.shape[-1])
        return jnp.sum(matrix * vector, axis=1) + number

    axes = tuple((2, 1, 0)[i] for i in order)
    given = [(matrices, vectors, numbers)[i] for i in order]
    result = jax.vmap(batch_last(affine, axes))(*given)
    on_cpu = jax.default_backend() == "cpu"
    assert seen[-1] == (1 if on_cpu and count == ALONE_FROM else NETWORKS * count)
    expected = np.einsum("kij,kjs->kis", matrices[..., 0], vectors) + np.asarray(numbers)[:, None]
    np.testing.assert_allclose(result, expected, rtol=1e-14)
