"""Dense linear solves for a batch of systems: matrices (n, n, *batch), vectors (n, *batch).

The samples come last, so that neighbours in memory are the same entry of neighbouring samples, and
elementwise arithmetic on them is vector arithmetic. (Under `vmap` the samples come first, and n
numbers at a time are too few for a vector unit.) A matrix may have batch axes of length one: then
all samples share it.

Three ways to factorise, chosen by size with `python -m benchmarks.linear_solves`. The smallest
matrices are inverted by blocks, in the fewest kernels; the next by Gauss-Jordan sweeps over whole
matrices; larger ones go to LAPACK, one call a sample.

Neither of the first two pivots: row exchanges differ from sample to sample. They are therefore not
backward stable for every matrix, and each caller checks what it computed: the solvers by the
residual of the equation they solve, the adjoint by its own linear residual after one step of
iterative refinement.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax.linalg import lu, triangular_solve
from jaxtyping import Array, Bool, Float, Int

INVERT_UP_TO = 8
SWEEP_UP_TO = 32
PAIRS_UP_TO = 24  # sweeps take two pivots at a time, and four beyond
# The widest matrix whose product with a vector is written out as a sum of columns: where the
# samples share it, and where each has its own.
UNROLL_SHARED_UP_TO, UNROLL_UP_TO = 20, 64


class Inverse(eqx.Module):
    """M^-1, and the sign of det M."""

    inverse: Float[Array, "n n *batch"]
    positive: Bool[Array, "*batch"]

    def solve(self, rhs: Float[Array, "n *batch"]) -> Float[Array, "n *batch"]:
        """Solve M x = rhs."""
        return multiply(self.inverse, rhs)

    def solve_transposed(self, rhs: Float[Array, "n *batch"]) -> Float[Array, "n *batch"]:
        """Solve M^T x = rhs."""
        return multiply(jnp.swapaxes(self.inverse, 0, 1), rhs)

    def determinant_is_positive(self) -> Bool[Array, "*batch"]:
        """Whether det M > 0."""
        return self.positive


class Lapack(eqx.Module):
    """L U = P M by LAPACK's getrf, with partial pivoting; the samples first, as LAPACK has them."""

    lu: Float[Array, "samples n n"]
    permutation: Int[Array, "samples n"]
    odd: Bool[Array, " samples"]
    batch: tuple[int, ...] = eqx.field(static=True)

    def solve(self, rhs: Float[Array, "n *batch"]) -> Float[Array, "n *batch"]:
        """Solve M x = rhs: L U x = P rhs."""
        x = jnp.take_along_axis(self._samples(rhs), self.permutation[:, :, None], axis=1)
        x = triangular_solve(self.lu, x, left_side=True, lower=True, unit_diagonal=True)
        x = triangular_solve(self.lu, x, left_side=True, lower=False)
        return self._batch(x)

    def solve_transposed(self, rhs: Float[Array, "n *batch"]) -> Float[Array, "n *batch"]:
        """Solve M^T x = rhs: U^T L^T P x = rhs."""
        x = self._samples(rhs)
        x = triangular_solve(self.lu, x, left_side=True, lower=False, transpose_a=True)
        x = triangular_solve(
            self.lu, x, left_side=True, lower=True, transpose_a=True, unit_diagonal=True
        )
        inverse = jnp.argsort(self.permutation, axis=1)
        return self._batch(jnp.take_along_axis(x, inverse[:, :, None], axis=1))

    def determinant_is_positive(self) -> Bool[Array, "*batch"]:
        """Whether det M > 0: the signs of U's diagonal and of the row exchanges."""
        negative = jnp.sum(jnp.diagonal(self.lu, axis1=-2, axis2=-1) < 0, axis=-1)
        return (self.odd == (negative % 2 == 1)).reshape(self.batch)

    def _samples(self, rhs: Array) -> Array:
        n = rhs.shape[0]
        return jnp.broadcast_to(rhs, (n, *self.batch)).reshape(n, -1).T[:, :, None]

    def _batch(self, x: Array) -> Array:
        return x[:, :, 0].T.reshape(-1, *self.batch)


def factorize(matrix: Float[Array, "n n *batch"]) -> Inverse | Lapack:
    """Factors of square matrices, for any number of solves with them."""
    n = matrix.shape[0]
    if n <= INVERT_UP_TO:
        return invert(matrix)
    return sweep(matrix) if n <= SWEEP_UP_TO else lapack(matrix)


def invert(matrix: Float[Array, "n n *batch"]) -> Inverse:
    """The inverse by blocks, down to the closed forms of one to three rows.

    With S = M22 - M21 M11^-1 M12 (Schur's complement), det M = det M11 det S and

        M^-1 = | M11^-1 - M11^-1 M12 X   -M11^-1 M12 S^-1 |,    X = -S^-1 M21 M11^-1.
               | X                        S^-1            |
    """
    n = matrix.shape[0]
    if n <= 3:
        return _closed_form(matrix)
    k = (n + 1) // 2
    m11, m12, m21, m22 = matrix[:k, :k], matrix[:k, k:], matrix[k:, :k], matrix[k:, k:]
    first = invert(m11)
    right = _product(first.inverse, m12)
    schur = invert(m22 - _product(m21, right))
    below = -_product(schur.inverse, _product(m21, first.inverse))
    above = jnp.concatenate(
        [first.inverse - _product(right, below), -_product(right, schur.inverse)], axis=1
    )
    inverse = jnp.concatenate([above, jnp.concatenate([below, schur.inverse], axis=1)])
    return Inverse(inverse=inverse, positive=first.positive == schur.positive)


def _closed_form(matrix: Float[Array, "n n *batch"]) -> Inverse:
    """The adjugate over the determinant, n <= 3."""
    n = matrix.shape[0]
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
    determinant = jnp.asarray(sum(m[0][j] * adjugate[j][0] for j in range(n)))
    # Row by row: XLA fuses a concatenation of few arrays only.
    inverse = jnp.stack([jnp.stack(row) / determinant for row in adjugate])
    return Inverse(inverse=inverse, positive=1 / determinant > 0)


def _product(a: Float[Array, "i j *batch"], b: Float[Array, "j k *batch"]) -> Array:
    """A B as a sum of outer products, which fuse with their neighbours."""
    terms = [a[:, j, None] * b[None, j] for j in range(a.shape[1])]
    return sum(terms[1:], terms[0])


def sweep(matrix: Float[Array, "n n *batch"]) -> Inverse:
    """The inverse by Gauss-Jordan elimination, a few pivots of all samples at a time.

    With P the inverse of the first block, a sweep over it and a rotation that puts it last make

        | M11 M12 |  ->  | M22 - M21 P M12   -M21 P |
        | M21 M22 |      | P M12              P     |

    and when every block has been last, M^-1 is left, in its own order. The rotation costs nothing,
    and without it each sweep would have to find its block at a place that changes.
    """
    n = matrix.shape[0]
    width = 2 if n <= PAIRS_UP_TO else 4
    size = -(-n // width) * width

    def eliminate(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        m, positive = carry
        first = invert(m[:width, :width])
        right, left = _product(first.inverse, m[:width, width:]), m[width:, :width]
        rest = m[width:, width:] - _product(left, right)
        above = jnp.concatenate([rest, -_product(left, first.inverse)], axis=1)
        below = jnp.concatenate([right, first.inverse], axis=1)
        return (jnp.concatenate([above, below]), positive == first.positive), None

    start = (_bordered(matrix, size), jnp.ones(matrix.shape[2:], bool))
    # A scan, not a fori_loop, so that reverse mode (second derivatives) goes through.
    (inverse, positive), _ = jax.lax.scan(eliminate, start, length=size // width)
    return Inverse(inverse=inverse[:n, :n], positive=positive)


def _bordered(matrix: Float[Array, "n n *batch"], size: int) -> Float[Array, "size size *batch"]:
    """The matrix, and ones below on the diagonal."""
    n = matrix.shape[0]
    no_batch = [(0, 0)] * (matrix.ndim - 2)
    ones = jnp.diag(jnp.arange(size) >= n).reshape(size, size, *(1,) * (matrix.ndim - 2))
    return jnp.pad(matrix, [(0, size - n)] * 2 + no_batch) + ones.astype(matrix.dtype)


def lapack(matrix: Float[Array, "n n *batch"]) -> Lapack:
    """LU factors with partial pivoting."""
    n, batch = matrix.shape[0], matrix.shape[2:]
    samples = jnp.moveaxis(matrix.reshape(n, n, -1), -1, 0)
    factors, pivots, permutation = lu(samples)
    odd = jnp.sum(pivots != jnp.arange(n), axis=-1) % 2 == 1
    return Lapack(lu=factors, permutation=permutation, odd=odd, batch=batch)


def multiply(
    matrix: Float[Array, "m n *shared"], vector: Float[Array, "n *batch"]
) -> Float[Array, "m *batch"]:
    """M v, for samples that have a matrix each or share one."""
    m, n = matrix.shape[:2]
    shared = math.prod(matrix.shape[2:]) == 1
    if max(m, n) <= (UNROLL_SHARED_UP_TO if shared else UNROLL_UP_TO):
        # XLA computes a concatenation once, and anything else again for each entry of the next
        # product that it can fuse it into.
        halves = jnp.split(matrix, [(m + 1) // 2]) if m > 1 else [matrix]
        return jnp.concatenate([_columns(half, vector) for half in halves])
    if shared:
        product = matrix.reshape(m, n) @ vector.reshape(n, -1)
        return product.reshape(m, *vector.shape[1:])
    return jnp.einsum("ij...,j...->i...", matrix, vector)


def _columns(matrix: Float[Array, "m n *shared"], vector: Float[Array, "n *batch"]) -> Array:
    terms = [matrix[:, j] * vector[j] for j in range(matrix.shape[1])]
    return sum(terms[1:], terms[0])


def solve_refined(
    matrix: Float[Array, "n n *batch"], rhs: Float[Array, "n *batch"]
) -> Float[Array, "n *batch"]:
    """Solve M x = rhs with one step of iterative refinement.

    Refinement squares the relative error that a factorisation without pivots leaves, and costs one
    more solve with the same factors.
    """
    factors = factorize(matrix)
    x = factors.solve(rhs)
    return x + factors.solve(rhs - multiply(matrix, x))


def solve_transposed_refined(
    matrix: Float[Array, "n n *batch"], rhs: Float[Array, "n *batch"]
) -> Float[Array, "n *batch"]:
    """Solve M^T x = rhs likewise."""
    factors = factorize(matrix)
    transpose = jnp.swapaxes(matrix, 0, 1)
    x = factors.solve_transposed(rhs)
    return x + factors.solve_transposed(rhs - multiply(transpose, x))
