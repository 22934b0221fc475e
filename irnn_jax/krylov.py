"""GMRES for a batch of linear systems that lies last, by products with their operators alone.

All samples take their steps together: one product with a shared matrix serves the whole batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

RESTART = 20  # vectors that are kept, (20, n, *batch)
CYCLES = 20


class Krylov(NamedTuple):
    """An orthonormal basis W of operator(K), K the space searched, and what is left of the rhs.

    Attributes:
        basis: W, (RESTART, n, *batch); rows of zeros where it is not filled.
        triangle: R in operator(Z) = W R, where Z = [r0/|r0|, W without its last], like a matrix
            (RESTART, RESTART, *batch).
        along: the rhs along W, (RESTART, *batch).
        residual: (n, *batch).
    """

    basis: Float[Array, "restart n *batch"]
    triangle: Float[Array, "restart restart *batch"]
    along: Float[Array, "restart *batch"]
    residual: Float[Array, "n *batch"]


def gmres(
    operator: Callable[[Array], Array], rhs: Float[Array, "n *batch"], tolerance: float
) -> Float[Array, "n *batch"]:
    """Solve operator(x) = rhs for each sample, to a residual of `tolerance` relative to its rhs.

    The simpler GMRES of Walker and Zhou (Numer. Linear Algebra Appl. 1, 1994), which knows the
    residual in every step and needs no rotations, restarted every 20 steps, at most 20 times. It
    never raises: callers check what comes back.
    """
    enough = tolerance * _norm(rhs)

    def cycle(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        number, x, residual = carry
        x = x + _search(operator, residual, enough)
        return number + 1, x, rhs - operator(x)

    def unsolved(carry: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        number, _, residual = carry
        return (number < CYCLES) & jnp.any(_norm(residual) > enough)

    # The first residual is the rhs itself: x = 0.
    start = (jnp.zeros((), jnp.int32), jnp.zeros_like(rhs), rhs)
    return jax.lax.while_loop(unsolved, cycle, start)[1]


def _search(
    operator: Callable[[Array], Array],
    residual: Float[Array, "n *batch"],
    enough: Float[Array, "*batch"],
) -> Float[Array, "n *batch"]:
    """The x of one cycle, for which residual - operator(x) is smallest."""
    size = _norm(residual)
    first = residual / jnp.where(size > 0, size, 1)

    def extend(carry: tuple[Array, Krylov]) -> tuple[Array, Krylov]:
        k, space = carry
        z = jnp.where(k == 0, first, space.basis[jnp.maximum(k - 1, 0)])
        image = operator(z)

        def without(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            w, column = carry
            overlap = jnp.sum(space.basis[i] * w, axis=0)
            return w - overlap * space.basis[i], column.at[i].set(overlap)

        # By modified Gram-Schmidt, which reads no row that is not filled.
        w, column = jax.lax.fori_loop(0, k, without, (image, jnp.zeros_like(space.along)))
        length = _norm(w)
        # What is solved, or has no new direction, goes on with a vector of zeros.
        rounding = 10 * float(jnp.finfo(w.dtype).eps) * _norm(image)
        fresh = (_norm(space.residual) > enough) & (length > rounding)
        w = jnp.where(fresh, w / jnp.where(fresh, length, 1), 0)
        column = jnp.where(fresh, column, 0).at[k].set(jnp.where(fresh, length, 1))
        along = jnp.sum(space.residual * w, axis=0)
        return k + 1, Krylov(
            basis=space.basis.at[k].set(w),
            triangle=space.triangle.at[:, k].set(column),
            along=space.along.at[k].set(along),
            residual=space.residual - along * w,
        )

    def goes_on(carry: tuple[Array, Krylov]) -> Bool[Array, ""]:
        k, space = carry
        return (k < RESTART) & jnp.any(_norm(space.residual) > enough)

    batch = residual.shape[1:]
    identity = jnp.eye(RESTART, dtype=residual.dtype).reshape(RESTART, RESTART, *(1,) * len(batch))
    empty = Krylov(
        basis=jnp.zeros((RESTART, *residual.shape), residual.dtype),
        triangle=jnp.broadcast_to(identity, (RESTART, RESTART, *batch)),
        along=jnp.zeros((RESTART, *batch), residual.dtype),
        residual=residual,
    )
    _, space = jax.lax.while_loop(goes_on, extend, (jnp.zeros((), jnp.int32), empty))
    weights = _back_substitute(space.triangle, space.along)
    return first * weights[0] + jnp.sum(space.basis[:-1] * weights[1:, None], axis=0)


def _back_substitute(
    triangle: Float[Array, "m m *batch"], rhs: Float[Array, "m *batch"]
) -> Float[Array, "m *batch"]:
    """Solve R y = rhs for upper triangular R, from the last row to the first."""

    def row(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        y, rest = carry
        k = RESTART - 1 - i
        value = rest[k] / triangle[k, k]
        return y.at[k].set(value), rest - triangle[:, k] * value

    return jax.lax.fori_loop(0, RESTART, row, (jnp.zeros_like(rhs), rhs))[0]


def _norm(vector: Float[Array, "n *batch"]) -> Float[Array, "*batch"]:
    return jnp.sqrt(jnp.sum(vector**2, axis=0))
