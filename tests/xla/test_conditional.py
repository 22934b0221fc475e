"""Work that nobody needs is not done, under `vmap` either, where XLA could do it beforehand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from irnn_jax.linalg.spectrum import unstable_by_matrix
from irnn_jax.xla.conditional import run_if


@pytest.mark.parametrize("needed", [[False, False], [False, True]])
def test_what_is_given_is_only_worked_on_where_it_is_needed(needed):
    matrices = jnp.stack([2 * jnp.eye(3), 4 * jnp.eye(3)])

    def solve(needed, matrix):
        return run_if(needed, lambda _, m: jnp.linalg.inv(m), matrix, matrix)

    found = jax.jit(jax.vmap(solve))(jnp.asarray(needed), matrices)
    inverses = np.linalg.inv(matrices)
    np.testing.assert_allclose(found, np.where(np.reshape(needed, (2, 1, 1)), inverses, matrices))


def test_eigenvalues_stay_inside_the_loop():
    """Of a batch that needs none: their computation is no part of what runs in any case."""
    # On a CPU, where they have the name of LAPACK's kernel.
    with jax.default_device(jax.devices("cpu")[0]):
        matrices, slopes, asked = (
            jnp.zeros((12, 20, 20, 6)),
            jnp.ones((12, 20, 6)),
            jnp.ones((12, 1, 6), bool),
        )
        compiled = jax.jit(jax.vmap(unstable_by_matrix)).lower(matrices, slopes, asked).compile()
    program = str(compiled.as_text())
    always = program[program.index("ENTRY") :]
    assert "geev" in program
    assert "geev" not in always
