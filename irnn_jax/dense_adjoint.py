"""The adjoint's linear systems (I - A^T D) w = g of a network, for a batch that lies last.

Solved directly up to `DIRECT_UP_TO` neurons, with one step of iterative refinement, which squares
the relative error that a factorisation without pivots leaves. A wide system is iterated with
Anderson acceleration, whose products with A all samples share, and solved by GMRES where that does
not end: an equilibrium that an iteration reaches has an adjoint that an iteration reaches, since
their rates are the same.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.gradients import AdjointSystem
from irnn_jax.krylov import gmres
from irnn_jax.lazily import at_most_once
from irnn_jax.linear import BLOCKS_UP_TO, factorize, multiply, product
from irnn_jax.max_norm import max_norm
from irnn_jax.network import feedforward_mask
from irnn_jax.problem import DIRECT_UP_TO, State
from irnn_jax.side_by_side import side_by_side
from irnn_jax.solvers import Anderson
from irnn_jax.solvers.refine import settle_refined
from irnn_jax.solvers.settle import FACTORISE_UP_TO, affine


def dense_adjoint_system(
    matrix: Float[Array, "n n"], slope: Float[Array, "n batch"], sizes: tuple[int, ...]
) -> AdjointSystem:
    """The systems of all samples; `sizes` are the layers', from input to output."""
    transpose = matrix.T[:, :, None]
    feedforward = jnp.where(feedforward_mask(sizes), matrix, 0).T[:, :, None]

    def solve(rhs: State, _: Any) -> State:
        # The rule for a linear solve differentiates the system, and never how it is solved.
        return jax.lax.custom_linear_solve(
            lambda w: w - multiply(transpose, slope * w),
            rhs,
            lambda _, g: solve_adjoint(matrix[:, :, None], slope, g),
            lambda _, g: solve_tangent(matrix[:, :, None], slope, g),
        )

    return AdjointSystem(
        pullback=lambda w: multiply(transpose, slope * w),
        feedforward_pullback=lambda w: multiply(feedforward, slope * w),
        depth=len(sizes),
        solve=solve,
    )


def _solve_adjoint(matrix: Array, slope: Array, rhs: Array) -> Array:
    """(I - A^T D) w = g."""
    transpose = jnp.swapaxes(matrix, 0, 1)

    def direct(rhs: Array, slope: Array) -> Array:
        factors = factorize(_identity_minus_jacobian(matrix, slope))
        w = factors.solve_transposed(rhs)
        return w + factors.solve_transposed(rhs - w + _times(transpose, slope * w))

    # w = g + A^T v with v = D w.
    def settled(rhs: Array, tolerance: float) -> tuple[Array, Array]:
        equation = affine(transpose, rhs, slope, jnp.zeros_like(rhs))
        found = settle_refined(equation, rhs, jnp.any(rhs != 0, axis=0), tolerance)
        return found.u, found.done

    def operator(w: Array) -> Array:
        return multiply(transpose, slope * w)

    return _solve(operator, rhs, settled, direct, slope)


def _solve_tangent(matrix: Array, slope: Array, rhs: Array) -> Array:
    """(I - D A) v = r."""

    def direct(rhs: Array, slope: Array) -> Array:
        factors = factorize(_identity_minus_jacobian(matrix, slope))
        v = factors.solve(rhs)
        return v + factors.solve(rhs - v + slope * _times(matrix, v))

    # v = r + D u with u = A v.
    def settled(rhs: Array, tolerance: float) -> tuple[Array, Array]:
        none = jnp.zeros_like(rhs)
        equation = affine(matrix, none, slope, rhs)
        found = settle_refined(equation, none, jnp.any(rhs != 0, axis=0), tolerance)
        return found.y, found.done

    def operator(v: Array) -> Array:
        return slope * multiply(matrix, v)

    return _solve(operator, rhs, settled, direct, slope)


solve_adjoint = side_by_side(_solve_adjoint, (2, 1, 1), 1)
solve_tangent = side_by_side(_solve_tangent, (2, 1, 1), 1)


def _times(matrix: Array, vector: Array) -> Array:
    """A product that is not computed again for each entry of what follows."""
    return product(matrix, vector) if len(vector) <= BLOCKS_UP_TO else multiply(matrix, vector)


def _solve(
    operator: Callable[[Array], Array],
    rhs: Array,
    settled: Callable[[Array, float], tuple[Array, Array]],
    direct: Callable[[Array, Array], Array],
    slope: Array,
) -> Array:
    """Solve w - K w = g, K w being `operator`: by iteration, and where it is slow, directly.

    Where the systems are too large for that, what does not settle is accelerated, or mended.
    """
    n = len(rhs)
    if n <= FACTORISE_UP_TO:
        return direct(rhs, slope)
    accuracy = float(jnp.finfo(rhs.dtype).eps) ** 0.75
    # In units of its largest number: squares of small ones leave float32's range.
    size = max_norm(rhs)
    unit = jnp.where(size > 0, size, 1)
    rhs = rhs / unit
    state, done = settled(rhs, accuracy)
    state, done = jnp.where(done, state, rhs), done | (size == 0)
    if n <= DIRECT_UP_TO:

        def factorised(state: Array, slope: Array) -> Array:
            return jnp.where(done, state, direct(rhs, slope))

        return unit * at_most_once(jnp.any(~done), factorised, state, slope)

    def accelerate(state: Array) -> Array:
        def rest(w: Array) -> Array:
            return jnp.where(done, w, rhs + operator(w))

        anderson, forward = Anderson(max_steps=200), diffrax.ForwardMode()
        found = anderson.accelerate(rest, state, accuracy, forward)
        failed = ~(max_norm(found.velocity) <= accuracy)

        def mend(state: Array, rhs: Array) -> Array:
            # The other samples have nothing left to solve.
            mended = gmres(lambda w: w - operator(w), jnp.where(failed, rhs, 0), accuracy)
            return jnp.where(failed, mended, state)

        return at_most_once(jnp.any(failed), mend, found.state, rhs)

    return unit * at_most_once(jnp.any(~done), accelerate, state)


def _identity_minus_jacobian(matrix: Array, slope: Array) -> Array:
    n = slope.shape[0]
    identity = jnp.eye(n, dtype=slope.dtype).reshape(n, n, *(1,) * (slope.ndim - 1))
    return identity - slope[:, None] * matrix
