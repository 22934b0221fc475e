"""w = (I - J^T)^-1 c, the one linear solve of the exact gradient, and its own derivative."""

import functools

import jax
import lineax as lx

from irnn_jax.linalg.by_products import solve_with_lineax
from irnn_jax.linearisation import Linearisation, State
from irnn_jax.xla.promotion import with_default_promotion


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def solve_linear(
    transposed: bool,
    linear_solver: lx.AbstractLinearSolver | None,
    linear: Linearisation,
    rhs: State,
) -> State:
    """(I - J^T)^-1 rhs if `transposed`, else (I - J)^-1 rhs.

    As the problem does it fastest, or by a solver of lineax. A solution has the derivatives of its
    system, and none of how it was solved: each of the two is the other's transpose.
    """
    if linear_solver is None:
        return linear.solve(rhs, transposed)
    return solve_with_lineax(linear.product(transposed), rhs, linear_solver)


def _forward(transposed, linear_solver, linear, rhs):
    solution = solve_linear(transposed, linear_solver, linear, rhs)
    return solution, (linear, solution)


@with_default_promotion
def _backward(transposed, linear_solver, saved, cotangent: State):
    linear, solution = saved
    rhs_bar: State = solve_linear(not transposed, linear_solver, linear, cotangent)
    _, pullback = jax.vjp(lambda linear: linear.product(transposed)(solution), linear)
    return *pullback(rhs_bar), rhs_bar


solve_linear.defvjp(_forward, _backward)
