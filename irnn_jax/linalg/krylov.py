"""BiCGStab and GMRES for a batch of linear systems, by products with their operators alone.

All samples take their steps together: one product with a shared matrix serves the whole batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.linalg.layout import Layout
from irnn_jax.xla.loops import Plain
from irnn_jax.xla.varying import vary, varying_axes

RESTART = 20  # vectors that are kept, (20, *state)
CYCLES = 20


class Krylov(NamedTuple):
    """An orthonormal basis W of operator(K), K the space searched, and what is left of the rhs.

    Attributes:
        basis: W, (RESTART, *state); rows of zeros where it is not filled.
        triangle: R in operator(Z) = W R, where Z = [r0/|r0|, W without its last], like a matrix
            (RESTART, RESTART, *numbers).
        along: the rhs along W, (RESTART, *numbers).
        residual: like a state.
    """

    basis: Float[Array, "restart *state"]
    triangle: Float[Array, "restart restart *numbers"]
    along: Float[Array, "restart *numbers"]
    residual: Float[Array, "*state"]


def bicgstab(
    operator: Callable[[Array], Array],
    rhs: Float[Array, "*state"],
    start: Float[Array, "*state"],
    enough: Float[Array, "*numbers"],
    layout: Layout,
    max_steps: int,
) -> Float[Array, "*state"]:
    """Solve operator(x) = rhs from `start`, until max|rhs - operator(x)| <= enough of each sample.

    Two products a step and six vectors in all (van der Vorst, SIAM J. Sci. Stat. Comput. 13, 1992).
    It may break down: callers check what comes back.
    """

    def ratio(a: Array, b: Array) -> Array:
        # Of a sample that is solved, or broke down, nothing moves any more.
        return jnp.where(b != 0, a / jnp.where(b != 0, b, 1), 0)

    def unsolved(at: tuple[Array, ...]) -> Array:
        # NaN compares false, and ends the sample.
        return layout.size(at[1]) > enough

    def advance(number: Array, at: tuple[Array, ...]) -> tuple[Array, ...]:
        del number
        x, residual, direction, image, rho, step, damping = at
        going = unsolved(at).astype(rhs.dtype)
        before, rho = rho, layout.dot(shadow, residual)
        beta = going * ratio(rho, before) * ratio(step, damping)
        direction = residual + beta * (direction - damping * image)
        image = operator(direction)
        step = going * ratio(rho, layout.dot(shadow, image))
        half = residual - step * image
        product = operator(half)
        damping = going * ratio(layout.dot(product, half), layout.dot(product, product))
        x = x + step * direction + damping * half
        return x, half - damping * product, direction, image, rho, step, damping

    shadow = rhs - operator(start)
    none, one = jnp.zeros_like(rhs), jnp.ones_like(layout.size(rhs))
    state = (start, shadow, none, none, one, one, one)
    return Plain().repeat(advance, state, unsolved, max_steps)[0]


def gmres(
    operator: Callable[[Array], Array],
    rhs: Float[Array, "*state"],
    tolerance: float,
    layout: Layout,
) -> Float[Array, "*state"]:
    """Solve operator(x) = rhs for each sample, to a residual of `tolerance` relative to its rhs.

    The simpler GMRES of Walker and Zhou (Numer. Linear Algebra Appl. 1, 1994), which knows the
    residual in every step and needs no rotations, restarted every 20 steps, at most 20 times. It
    never raises: callers check what comes back.
    """
    enough = tolerance * layout.norm(rhs)

    def cycle(number: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        del number
        x, residual = carry
        x = x + _search(operator, residual, enough, layout)
        return x, rhs - operator(x)

    def unsolved(carry: tuple[Array, Array]) -> Bool[Array, "..."]:
        return layout.norm(carry[1]) > enough

    # The first residual is the rhs itself: x = 0.
    return Plain().repeat(cycle, (jnp.zeros_like(rhs), rhs), unsolved, CYCLES)[0]


def _search(
    operator: Callable[[Array], Array],
    residual: Float[Array, "*state"],
    enough: Float[Array, "*numbers"],
    layout: Layout,
) -> Float[Array, "*state"]:
    """The x of one cycle, for which residual - operator(x) is smallest."""
    size = layout.norm(residual)
    first = residual / jnp.where(size > 0, size, 1)

    def extend(k: Array, space: Krylov) -> Krylov:
        z = jnp.where(k == 0, first, space.basis[jnp.maximum(k - 1, 0)])
        image = operator(z)

        def without(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            w, column = carry
            overlap = layout.dot(space.basis[i], w)
            return w - overlap * space.basis[i], column.at[i].set(overlap)

        # By modified Gram-Schmidt, which reads no row that is not filled.
        none = vary(jnp.zeros_like(space.along), varying_axes(image))
        w, column = jax.lax.fori_loop(0, k, without, (image, none))
        length = layout.norm(w)
        # What is solved, or has no new direction, goes on with a vector of zeros.
        rounding = 10 * float(jnp.finfo(w.dtype).eps) * layout.norm(image)
        fresh = (layout.norm(space.residual) > enough) & (length > rounding)
        w = jnp.where(fresh, w / jnp.where(fresh, length, 1), 0)
        column = jnp.where(fresh, column, 0).at[k].set(jnp.where(fresh, length, 1))
        along = layout.dot(space.residual, w)
        return Krylov(
            basis=space.basis.at[k].set(w),
            triangle=space.triangle.at[:, k].set(column),
            along=space.along.at[k].set(along),
            residual=space.residual - along * w,
        )

    def goes_on(space: Krylov) -> Bool[Array, "..."]:
        return layout.norm(space.residual) > enough

    numbers = size.shape
    identity = jnp.eye(RESTART, dtype=residual.dtype)
    identity = identity.reshape(RESTART, RESTART, *(1,) * len(numbers))
    empty = Krylov(
        basis=jnp.zeros((RESTART, *residual.shape), residual.dtype),
        triangle=jnp.broadcast_to(identity, (RESTART, RESTART, *numbers)),
        along=jnp.zeros((RESTART, *numbers), residual.dtype),
        residual=residual,
    )
    space = Plain().repeat(extend, empty, goes_on, RESTART)
    weights = _back_substitute(space.triangle, space.along)
    return first * weights[0] + jnp.sum(space.basis[:-1] * weights[1:], axis=0)


def _back_substitute(
    triangle: Float[Array, "m m *numbers"], rhs: Float[Array, "m *numbers"]
) -> Float[Array, "m *numbers"]:
    """Solve R y = rhs for upper triangular R, from the last row to the first."""

    def row(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        y, rest = carry
        k = RESTART - 1 - i
        value = rest[k] / triangle[k, k]
        return y.at[k].set(value), rest - triangle[:, k] * value

    none = vary(jnp.zeros_like(rhs), varying_axes(rhs))
    return jax.lax.fori_loop(0, RESTART, row, (none, rhs))[0]
