"""Dense linear solves for a batch of systems: matrices (n, n, *batch), vectors (n, *batch).

The samples come last, so that neighbours in memory are the same entry of neighbouring samples, and
elementwise arithmetic on them is vector arithmetic. (Under `vmap` the samples come first, and n
numbers at a time are too few for a vector unit.) A matrix may have batch axes of length one: then
all samples share it.

Three ways to factorise, chosen by size: elimination by blocks, the fastest; Gauss-Jordan sweeps,
which compile in seconds at any size; and LAPACK, one call a sample (`benchmarks.linear_solves`).

Neither of the first two pivots: row exchanges differ from sample to sample. They are therefore not
backward stable for every matrix, and each caller checks what it computed: the solvers by the
residual of the equation they solve, the adjoint by its own linear residual after one step of
iterative refinement.
"""

import math
from typing import Union

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.lax.linalg import lu, triangular_solve
from jaxtyping import Array, Bool, Float, Int

from irnn_jax.xla.tuning import (
    BLOCKS_UP_TO,
    SUM_UP_TO,
    SWEEP_UP_TO,
    UNROLL_SHARED_UP_TO,
    UNROLL_UP_TO,
)
from irnn_jax.xla.varying import vary, varying_axes


class Inverse(eqx.Module):
    """M^-1 itself, and the sign of det M."""

    inverse: Float[Array, "n n *batch"]
    positive: Bool[Array, "*batch"]

    def solve(self, rhs: Float[Array, "n *more"]) -> Float[Array, "n *more"]:
        """Solve M x = rhs, a vector or a matrix."""
        return product(self.inverse, rhs)

    def solve_transposed(self, rhs: Float[Array, "n *more"]) -> Float[Array, "n *more"]:
        """Solve M^T x = rhs."""
        return product(jnp.swapaxes(self.inverse, 0, 1), rhs)

    def determinant_is_positive(self) -> Bool[Array, "*batch"]:
        """Whether det M > 0."""
        return self.positive


class Blocks(eqx.Module):
    """M in four blocks, M11 and Schur's complement S = M22 - M21 M11^-1 M12 factorised.

    Attributes:
        first: of M11.
        right: M11^-1 M12.
        below: M21.
        schur: of S.
    """

    first: Union[Inverse, "Blocks"]
    right: Float[Array, "i j *batch"]
    below: Float[Array, "j i *batch"]
    schur: Union[Inverse, "Blocks"]

    def solve(self, rhs: Float[Array, "n *more"]) -> Float[Array, "n *more"]:
        """Solve M x = rhs, a vector or a matrix."""
        one, two = rhs[: len(self.right)], rhs[len(self.right) :]
        one = self.first.solve(one)
        # Minus x2: XLA negates with vector instructions, and copies without.
        two = self.schur.solve(product(self.below, one) - two)
        return jnp.concatenate([one + product(self.right, two), -two])

    def solve_transposed(self, rhs: Float[Array, "n *more"]) -> Float[Array, "n *more"]:
        """Solve M^T x = rhs."""
        one, two = rhs[: len(self.right)], rhs[len(self.right) :]
        right, below = jnp.swapaxes(self.right, 0, 1), jnp.swapaxes(self.below, 0, 1)
        two = self.schur.solve_transposed(product(right, one) - two)
        return jnp.concatenate([self.first.solve_transposed(one + product(below, two)), -two])

    def determinant_is_positive(self) -> Bool[Array, "*batch"]:
        """Whether det M = det M11 det S > 0."""
        return self.first.determinant_is_positive() == self.schur.determinant_is_positive()


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


def factorize(matrix: Float[Array, "n n *batch"]) -> Inverse | Blocks | Lapack:
    """Factors of square matrices, for any number of solves with them."""
    n = matrix.shape[0]
    if n <= BLOCKS_UP_TO:
        return eliminate(matrix)
    return sweep(matrix) if n <= SWEEP_UP_TO else lapack(matrix)


def eliminate(matrix: Float[Array, "n n *batch"]) -> Inverse | Blocks:
    """By blocks, half the rows at a time, down to the closed forms of one to three rows."""
    n = matrix.shape[0]
    if n <= 3:
        return _closed_form(matrix)
    k = (n + 1) // 2
    first, below = eliminate(matrix[:k, :k]), matrix[k:, :k]
    right = first.solve(matrix[:k, k:])
    schur = eliminate(matrix[k:, k:] - product(below, right))
    return Blocks(first=first, right=right, below=below, schur=schur)


def sweep(matrix: Float[Array, "n n *batch"]) -> Inverse:
    """The inverse by Gauss-Jordan elimination, two pivots of all samples at a time.

    With P the inverse of the first block, a sweep over it and a rotation that puts it last make

        | M11 M12 |  ->  | M22 - M21 P M12   -M21 P |
        | M21 M22 |      | P M12              P     |

    and when every block has been last, M^-1 is left, in its own order. The rotation costs nothing,
    and without it each sweep would have to find its block at a place that changes.
    """
    n = matrix.shape[0]

    def two(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        m, positive = carry
        first = _closed_form(m[:2, :2])
        right, left = columns(first.inverse, m[:2, 2:]), m[2:, :2]
        rest = m[2:, 2:] - columns(left, right)
        above = jnp.concatenate([rest, -columns(left, first.inverse)], axis=1)
        below = jnp.concatenate([right, first.inverse], axis=1)
        return (jnp.concatenate([above, below]), positive == first.positive), None

    start = (_of_even_size(matrix), jnp.ones(matrix.shape[2:], bool))
    start = vary(start, varying_axes(matrix))
    # A scan, not a fori_loop, so that reverse mode (second derivatives) goes through.
    (inverse, positive), _ = jax.lax.scan(two, start, length=(n + 1) // 2)
    return Inverse(inverse=inverse[:n, :n], positive=positive)


def _of_even_size(matrix: Float[Array, "n n *batch"]) -> Array:
    """The matrix, with a row and a column of the identity if n is odd."""
    n, odd = len(matrix), len(matrix) % 2
    padded = jnp.pad(matrix, [(0, odd)] * 2 + [(0, 0)] * (matrix.ndim - 2))
    return padded.at[n:, n:].set(1)


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


def product(a: Float[Array, "i j *batch"], b: Float[Array, "j *more"]) -> Array:
    """A b or A B, as a sum over an axis.

    XLA computes such a sum once. What is only added and multiplied it computes again for each entry
    of the next product that it can fuse it into, and elimination is one product after the other.
    """
    if b.ndim == a.ndim:
        a = a[:, :, None]
    size = math.prod(jnp.broadcast_shapes(a.shape, b[None].shape))
    # The inverse of a sweep is large, and faster by columns. What is concatenated is not computed
    # again either.
    # A size that an exported program leaves open is not a number yet.
    if len(a) > BLOCKS_UP_TO or not isinstance(size, int) or size > SUM_UP_TO:
        halves = jnp.split(a, [(len(a) + 1) // 2]) if len(a) > 1 else [a]
        return jnp.concatenate([columns(half, b) for half in halves])
    return jnp.sum(a * b[None], axis=1)


def columns(a: Float[Array, "i j *batch"], b: Float[Array, "j *more"]) -> Array:
    """The same as products with columns, which fuse with their neighbours."""
    if b.ndim == a.ndim:
        a = a[:, :, None]
    terms = [a[:, j] * b[j] for j in range(len(b))]
    return sum(terms[1:], terms[0])


def lapack(matrix: Float[Array, "n n *batch"]) -> Lapack:
    """LU factors with partial pivoting."""
    n, batch = matrix.shape[0], matrix.shape[2:]
    samples = jnp.moveaxis(matrix.reshape(n, n, -1), -1, 0)
    factors, pivots, permutation = lu(samples)
    odd = jnp.sum(pivots != jnp.arange(n), axis=-1) % 2 == 1
    return Lapack(lu=factors, permutation=permutation, odd=odd, batch=batch)


def matmul(a: Float[Array, "..."], b: Float[Array, "..."]) -> Array:
    """A B as `jnp.matmul`, and not in the three digits of TF32, as a GPU would by default."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def multiply(
    matrix: Float[Array, "m n *shared"], vector: Float[Array, "n *batch"]
) -> Float[Array, "m *batch"]:
    """M v, for samples that have a matrix each or share one."""
    m, n = matrix.shape[:2]
    shared = math.prod(matrix.shape[2:]) == 1
    if max(m, n) <= (UNROLL_SHARED_UP_TO if shared else UNROLL_UP_TO):
        return columns(matrix, vector)
    if shared:
        return matmul(matrix.reshape(m, n), vector.reshape(n, -1)).reshape(m, *vector.shape[1:])
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("ij...,j...->i...", matrix, vector, precision=highest)


def multiply_transposed(
    matrix: Float[Array, "m n *shared"], vector: Float[Array, "m *batch"]
) -> Float[Array, "n *batch"]:
    """M^T v."""
    return multiply(jnp.swapaxes(matrix, 0, 1), vector)
