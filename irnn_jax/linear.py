"""Dense linear solves, one system a call; batch with `jax.vmap`.

Three ways to factorise, chosen by size. A batch of LAPACK calls on small matrices spends most of
its time on the calls; written out in elementwise arithmetic, `vmap` turns every scalar into a
vector over samples. The smallest are inverted by blocks, in the fewest kernels; the next are
eliminated in unrolled scalar arithmetic; larger ones go to LAPACK. The thresholds come from
`python -m benchmarks.linear_solves`.

Neither of the first two pivots: row exchanges cost five times the arithmetic and ten times the
compile time. They are therefore not backward stable for every matrix, and each caller checks what
it computed: the solvers by the residual of the equation they solve, the adjoint by its own linear
residual after one step of iterative refinement.
"""

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Array, Bool, Float

INVERT_UP_TO = 7
ELIMINATE_UP_TO = 10


class Inverse(eqx.Module):
    """M^-1, and the sign of det M."""

    inverse: Float[Array, "n n"]
    positive: Bool[Array, ""]

    def solve(self, rhs: Float[Array, " n"]) -> Float[Array, " n"]:
        """Solve M x = rhs."""
        return multiply(self.inverse, rhs)

    def determinant_is_positive(self) -> Bool[Array, ""]:
        """Whether det M > 0."""
        return self.positive


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


def factorize(matrix: Float[Array, "n n"]) -> Inverse | Unrolled | Lapack:
    """Factors of a square matrix, for any number of solves with it."""
    n = matrix.shape[-1]
    if n <= INVERT_UP_TO:
        return invert(matrix)
    return eliminate(matrix) if n <= ELIMINATE_UP_TO else lapack(matrix)


def invert(matrix: Float[Array, "n n"]) -> Inverse:
    """The inverse by blocks, down to the closed forms of one to three rows.

    With S = M22 - M21 M11^-1 M12 (Schur's complement), det M = det M11 det S and

        M^-1 = | M11^-1 - M11^-1 M12 X   -M11^-1 M12 S^-1 |,    X = -S^-1 M21 M11^-1.
               | X                        S^-1            |
    """
    n = matrix.shape[-1]
    if n <= 3:
        return _closed_form(matrix)
    k = (n + 1) // 2
    m11, m12, m21, m22 = matrix[:k, :k], matrix[:k, k:], matrix[k:, :k], matrix[k:, k:]
    first = invert(m11)
    right = _product(first.inverse, m12)
    schur = invert(m22 - _product(m21, right))
    below = -_product(schur.inverse, _product(m21, first.inverse))
    blocks = [
        [first.inverse - _product(right, below), -_product(right, schur.inverse)],
        [below, schur.inverse],
    ]
    return Inverse(inverse=jnp.block(blocks), positive=first.positive == schur.positive)


def _closed_form(matrix: Float[Array, "n n"]) -> Inverse:
    """The adjugate over the determinant, n <= 3."""
    n = matrix.shape[-1]
    m = [[matrix[i, j] for j in range(n)] for i in range(n)]
    if n == 1:
        adjugate = [[jnp.ones_like(m[0][0])]]
    elif n == 2:
        adjugate = [[m[1][1], -m[0][1]], [-m[1][0], m[0][0]]]
    else:

        def cofactor(i: int, j: int) -> Array:
            (a, b), (c, d) = ((i + 1) % 3, (i + 2) % 3), ((j + 1) % 3, (j + 2) % 3)
            return m[a][c] * m[b][d] - m[a][d] * m[b][c]

        adjugate = [[cofactor(j, i) for j in range(3)] for i in range(3)]
    determinant = sum(m[0][j] * adjugate[j][0] for j in range(n))
    reciprocal = 1 / jnp.asarray(determinant)
    inverse = jnp.stack([entry * reciprocal for row in adjugate for entry in row]).reshape(n, n)
    return Inverse(inverse=inverse, positive=reciprocal > 0)


def _product(a: Float[Array, "i j"], b: Float[Array, "j k"]) -> Float[Array, "i k"]:
    """A B as a sum that fuses with its neighbours; a batched `dot` is a kernel of its own."""
    return jnp.sum(a[:, :, None] * b[None, :, :], axis=1)


def multiply(matrix: Float[Array, "m n"], vector: Float[Array, " n"]) -> Float[Array, " m"]:
    """M v, likewise for small matrices."""
    if max(matrix.shape) <= INVERT_UP_TO:
        return jnp.sum(matrix * vector, axis=1)
    return matrix @ vector


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

    Refinement squares the relative error that a factorisation without pivots leaves, and costs one
    more solve with the same factors.
    """
    factors = factorize(matrix)
    x = factors.solve(rhs)
    return x + factors.solve(rhs - multiply(matrix, x))
