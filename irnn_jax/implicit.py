"""The two implicit derivative rules: one for the dense map f(A Y + b), one for any cell.

Both are reverse-mode rules of `jax.custom_vjp` that share the solvers, the gradient strategies,
the record they return and what happens to a sample that failed:

    Y* = map(Y*),    w = (I - J^T)^-1 g,    dL/dtheta = (d map / d theta)^T w.

Each forward rule calls the rule's own function, never the bare loop, so that the backward rule is
itself differentiable in reverse mode and second derivatives are exact.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.activations import Activation, accurate_slope
from irnn_jax.contraction import contracts
from irnn_jax.dense_adjoint import dense_adjoint_system
from irnn_jax.forward_mode import reverse_mode_only
from irnn_jax.gradients import Adjoint, AdjointSystem, Unrolled
from irnn_jax.linear import matmul
from irnn_jax.problem import CellProblem, DenseProblem, State, solve_krylov
from irnn_jax.side_by_side import side_by_side
from irnn_jax.solving import Method, Solution, only_stable, solve_batch
from irnn_jax.status import Status
from irnn_jax.traced_once import traced_once

ADJOINT_FAILED = "the adjoint solve of an equilibrium did not converge"


class AdjointReport(NamedTuple):
    """What the backward pass knows, handed out as the cotangent of a probe.

    A backward rule cannot return values, but it can return cotangents: pass zeros of this type as
    `probe=`, differentiate with respect to them too, and the "gradient" is the report.

    Attributes:
        residual: relative residual of each sample's adjoint, 0 for one that was not attempted.
        failed: 1.0 where the adjoint did not converge and the sample was left out, else 0.0.
    """

    residual: Float[Array, "*batch"]
    failed: Float[Array, "*batch"]


def without_failed_gradients(solution: Solution) -> Solution:
    """The failure rule where JAX differentiates the loop: no gradient from a failed sample."""
    state = jnp.where(
        solution.converged[..., None], solution.state, jax.lax.stop_gradient(solution.state)
    )
    return solution._replace(state=state)


def solve_adjoint(
    system: AdjointSystem, cotangent: State, attempted: Bool[Array, "*batch"], method: Method
) -> tuple[State, AdjointReport]:
    """The adjoint states (n, *batch), zero (and reported) where they cannot be had.

    `attempted` is false for a sample without an equilibrium: it has no gradient to be wrong about.
    """
    assert not isinstance(method.gradient, Unrolled)
    cotangent = jnp.where(attempted, cotangent, 0)
    adjoint: Adjoint = method.gradient.adjoint(system, cotangent)
    failed = attempted & ~adjoint.converged
    state = jnp.where(attempted & adjoint.converged, adjoint.state, 0)
    if method.throw:
        state = eqx.error_if(state, failed, ADJOINT_FAILED)
    report = AdjointReport(
        residual=jax.lax.stop_gradient(jnp.where(attempted, adjoint.residual, 0)),
        failed=failed.astype(state.dtype),
    )
    return state, report


# The dense rule: dL/dA = u Y*^T and dL/db = u with u = D w, for a batch of drives.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseMethod(Method):
    """A method for Y = f(A Y + b); `sizes` are the layers' sizes, from input to output."""

    activation: Activation
    sizes: tuple[int, ...]
    check_stability: bool = False


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense_rule(
    method: DenseMethod,
    matrix: Float[Array, "n n"],
    drive: Float[Array, "batch n"],
    tolerance: Float[Array, ""] | None,
    probe: AdjointReport,
) -> Solution:
    del probe
    return _solve_dense(method, matrix, drive, tolerance)


def dense_equilibrium(
    method: DenseMethod,
    matrix: Float[Array, "n n"],
    drive: Float[Array, "batch n"],
    tolerance: Float[Array, ""] | None,
    probe: AdjointReport,
) -> Solution:
    """Equilibria of one network for a batch of drives, differentiable in A and b.

    `tolerance` is used in place of the solver's, unless it is None.
    """
    matrix, drive = reverse_mode_only((matrix, drive))
    if isinstance(method.gradient, Unrolled):
        return without_failed_gradients(_solve_dense(method, matrix, drive, tolerance))
    solution: Any = _dense_rule(method, matrix, drive, tolerance, probe)
    return solution


@traced_once
def _solve_dense(
    method: DenseMethod,
    matrix: Float[Array, "n n"],
    drive: Float[Array, "batch n"],
    tolerance: Float[Array, ""] | None,
) -> Solution:
    # A drive of NaN has no equilibrium. Solving for zero in its place keeps NaN out of the loop's
    # derivatives, where a masked cotangent would still meet it as 0 * NaN.
    valid = ~jnp.any(jnp.isnan(drive), axis=-1)
    drive = jnp.where(valid[:, None], drive, 0)

    known = {
        "tolerance": tolerance,
        "contracts": contracts(matrix, method.activation, len(drive)),
    }
    # One for each sample, as a vector of one number, so that runs with their own lie side by side.
    given = {
        name: jnp.broadcast_to(value, (1, len(drive)))
        for name, value in known.items()
        if value is not None
    }

    def solve(matrix: Array, drive: Array, *numbers: Array) -> Solution:
        of_samples: Any = dict(zip(given, (vector[0] for vector in numbers), strict=True))
        problem = DenseProblem(
            matrix=matrix, drive=drive, activation=method.activation, **of_samples
        )
        solution = solve_batch(problem, jnp.zeros_like(drive), method)
        if method.check_stability:
            solution = only_stable(problem, solution, method)
        return solution._replace(chord=jax.tree.map(lambda leaf: leaf[..., None], solution.chord))

    if not isinstance(method.gradient, Unrolled):
        solve = side_by_side(solve, (2, 1, *(1 for _ in given)))
    solution = solve(matrix[:, :, None], drive.T, *given.values())
    solution = solution._replace(state=solution.state.T)
    status = jnp.where(valid, solution.status, Status.NON_FINITE)
    return solution._replace(
        state=jnp.where(valid[:, None], solution.state, 0),
        residual=jnp.where(valid, solution.residual, jnp.inf),
        status=status,
    )


def _dense_forward(method, matrix, drive, tolerance, probe):
    solution: Any = _dense_rule(method, matrix, drive, tolerance, probe)
    saved = (matrix, drive, tolerance, solution.state, solution.converged, solution.chord)
    return solution, saved


def _dense_backward(method: DenseMethod, saved, cotangents: Solution):
    matrix, drive, tolerance, state, converged, chord = saved
    # The cotangents of residual, num_steps and status are dropped on purpose: diagnostics.
    state = jnp.where(converged[:, None], state, 0).T
    slope = accurate_slope(method.activation, matmul(matrix, state) + drive.T)
    slope = jnp.where(converged, slope, 0)
    system = dense_adjoint_system(matrix, slope, method.sizes, chord)
    adjoint, report = solve_adjoint(system, cotangents.state.T, converged, method)
    u = slope * adjoint
    # Where a search ends is no function of when.
    return matmul(u, state.T), u.T, jax.tree.map(jnp.zeros_like, tolerance), report


_dense_rule.defvjp(_dense_forward, _dense_backward)


# The matrix-free rule: the same, by vector-Jacobian products of the cell, one sample.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellMethod(Method):
    """A method for Y = cell(params, Y, x) on a flat state."""

    cell: Callable[[Any, State, Any], State]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cell_rule(
    method: CellMethod, params: Any, x: Any, y0: State, probe: AdjointReport
) -> Solution:
    del probe
    return _solve_cell(method, params, x, y0)


def cell_equilibrium(
    method: CellMethod, params: Any, x: Any, y0: State, probe: AdjointReport
) -> Solution:
    """The equilibrium of one cell from y0, differentiable in `params` and `x`."""
    params, x = reverse_mode_only((params, x))
    if isinstance(method.gradient, Unrolled):
        return without_failed_gradients(_solve_cell(method, params, x, y0))
    solution: Any = _cell_rule(method, params, x, y0, probe)
    return solution


@traced_once
def _solve_cell(method: CellMethod, params: Any, x: Any, y0: State) -> Solution:
    return solve_batch(CellProblem(cell=method.cell, params=params, x=x), y0, method)


def _cell_forward(method, params, x, y0, probe):
    solution: Any = _cell_rule(method, params, x, y0, probe)
    return solution, (params, x, solution.state, solution.converged)


def _cell_backward(method: CellMethod, saved, cotangents: Solution):
    params, x, state, converged = saved
    state = jnp.where(converged, state, 0)
    # A masked adjoint still meets the NaN of a bad sample as 0 * NaN: in this derivative, which is
    # masked below, and in the derivative of this derivative, which is masked here.
    params, x = _where(converged, (params, x), jax.lax.stop_gradient((params, x)))
    _, pullback = jax.vjp(lambda y: method.cell(params, y, x), state)
    system = AdjointSystem(
        pullback=lambda w: pullback(w)[0],
        feedforward_pullback=jnp.zeros_like,
        depth=1,
        solve=lambda g, solver: solve_krylov(lambda w: w - pullback(w)[0], g, solver),
    )
    adjoint, report = solve_adjoint(system, cotangents.state, converged, method)
    _, pullback_parameters = jax.vjp(lambda p, x: method.cell(p, state, x), params, x)
    gradients = pullback_parameters(adjoint)
    gradients = _where(converged, gradients, jax.tree.map(lambda _: 0, gradients))
    # The equilibrium does not depend on where the search for it began.
    return *gradients, jnp.zeros_like(state), report


def _where(condition: Bool[Array, ""], tree: Any, otherwise: Any) -> Any:
    """`jnp.where`, leaf by leaf; what is not differentiable stays as it is."""

    def choose(leaf: Any, other: Any) -> Any:
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.where(condition, leaf, other) if inexact else leaf

    return jax.tree.map(choose, tree, otherwise)


_cell_rule.defvjp(_cell_forward, _cell_backward)
