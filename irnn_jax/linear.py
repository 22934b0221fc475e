"""Dense linear solves, one system a call; batch with `jax.vmap`.

Two ways to factorise, chosen by size. Small systems are eliminated in unrolled scalar arithmetic,
so that `vmap` turns every scalar into a vector over samples and XLA fuses the whole elimination;
a batch of LAPACK calls spends most of its time on the calls. Larger systems go to LAPACK.

The unrolled elimination does not pivot: row exchanges cost five times the arithmetic and ten times
the compile time. It is therefore not backward stable for every matrix, and each caller checks what
it computed: the solvers by the residual of the equation they solve, the adjoint by its own linear
residual after one step of iterative refinement.
"""

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Array, Bool, Float

# At eight the unrolled solve takes a quarter of LAPACK's time, at twelve two thirds, while its
# compile time grows with the cube of the size: `python -m benchmarks.linear_solves`.
UNROLL_UP_TO = 8


class Unrolled(eqx.Module):
    """L U = M without pivoting; `rows[i][j]` holds U for j >= i and the multipliers of L below."""

    rows: tuple[tuple[Array, ...], ...]

    def solve(self, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
        """Solve M x = rhs."""
        n = len(self.rows)
        x = [rhs[i] for i in range(n)]
        for i in range(n):
            for j in range(i):
                x[i] = x[i] - self.rows[i][j] * x[j]
        for i in reversed(range(n)):
            for j in range(i + 1, n):
                x[i] = x[i] - self.rows[i][j] * x[j]
            x[i] = x[i] / self.rows[i][i]
        return jnp.stack(x)

    def determinant_is_positive(self) -> Bool[Array, ""]:
        """Whether det M > 0, read off the pivots."""
        pivots = jnp.stack([row[i] for i, row in enumerate(self.rows)])
        return jnp.sum(pivots < 0) % 2 == 0


class Lapack(eqx.Module):
    """P L U = M by LAPACK's getrf, with partial pivoting."""

    lu: Float[Array, "n n"]
    pivots: Array

    def solve(self, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
        """Solve M x = rhs."""
        return lu_solve((self.lu, self.pivots), rhs)

    def determinant_is_positive(self) -> Bool[Array, ""]:
        """Whether det M > 0: the signs of U's diagonal and of the row exchanges."""
        exchanges = jnp.sum(self.pivots != jnp.arange(self.pivots.shape[-1]))
        negative = jnp.sum(jnp.diagonal(self.lu) < 0)
        return (exchanges + negative) % 2 == 0


def factorize(matrix: Float[Array, "n n"]) -> Unrolled | Lapack:
    """Factors of a square matrix, for any number of solves with it."""
    return eliminate(matrix) if matrix.shape[-1] <= UNROLL_UP_TO else lapack(matrix)


def eliminate(matrix: Float[Array, "n n"]) -> Unrolled:
    """Gaussian elimination without pivoting, in unrolled scalar arithmetic."""
    n = matrix.shape[-1]
    rows = [[matrix[i, j] for j in range(n)] for i in range(n)]
    for k in range(n):
        reciprocal = 1 / rows[k][k]
        for i in range(k + 1, n):
            multiplier = rows[i][k] * reciprocal
            for j in range(k + 1, n):
                rows[i][j] = rows[i][j] - multiplier * rows[k][j]
            rows[i][k] = multiplier
    return Unrolled(rows=tuple(map(tuple, rows)))


def lapack(matrix: Float[Array, "n n"]) -> Lapack:
    """LU factors with partial pivoting."""
    lu, pivots = lu_factor(matrix)
    return Lapack(lu=lu, pivots=pivots)


def solve_refined(matrix: Float[Array, "n n"], rhs: Float[Array, " n"]) -> Float[Array, " n"]:
    """Solve M x = rhs with one step of iterative refinement.

    Refinement squares the relative error that an unpivoted elimination leaves, and costs one more
    pair of triangular solves.
    """
    factors = factorize(matrix)
    x = factors.solve(rhs)
    return x + factors.solve(rhs - matrix @ x)
