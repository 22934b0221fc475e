"""What a solver sees: the map Y -> f(A Y + b) of one sample, and solves with its linearisation.

Two kinds, one interface. `DenseProblem` holds the matrix and factorises; `CellProblem` holds any
function on a flat state and solves by Krylov iteration on Jacobian-vector products. Both are
pytrees, so that they travel through diffrax as its `args`.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from irnn_jax.activations import Activation, value_and_slope
from irnn_jax.linear import factorize

State = Float[Array, " n"]


@runtime_checkable
class Problem(Protocol):
    """One fixed-point problem Y = map(Y) on a flat state."""

    def map(self, y: State) -> State:
        """The right-hand side f(A Y + b)."""
        ...

    def damped_newton_step(
        self, y: State, residual: State, damping: Float[Array, ""]
    ) -> tuple[State, Bool[Array, ""]]:
        """Solve ((1 + damping) I - J) step = residual, J the Jacobian of `map` at y.

        Returns the step, and whether the matrix's determinant is positive (true when unknown): it
        is negative only if an odd number of real eigenvalues of J - I lie above `damping`.
        """
        ...


class DenseProblem(eqx.Module):
    """Y = f(A Y + b) with the matrix at hand: A (n, n), b (n,)."""

    matrix: Float[Array, "n n"]
    drive: State
    activation: Activation = eqx.field(static=True)

    def map(self, y: State) -> State:
        """f(A Y + b)."""
        return self.activation(self.matrix @ y + self.drive)

    def damped_newton_step(
        self, y: State, residual: State, damping: Float[Array, ""]
    ) -> tuple[State, Bool[Array, ""]]:
        """Factorise (1 + damping) I - D A."""
        _, slope = value_and_slope(self.activation, self.matrix @ y + self.drive)
        identity = jnp.eye(y.size, dtype=y.dtype)
        factors = factorize((1 + damping) * identity - slope[:, None] * self.matrix)
        return factors.solve(residual), factors.determinant_is_positive()


class CellProblem(eqx.Module):
    """Y = cell(params, Y, x) on a flat state, by products with the Jacobian only."""

    cell: Callable[[Any, State, Any], State] = eqx.field(static=True)
    params: Any
    x: Any

    def map(self, y: State) -> State:
        """cell(params, Y, x)."""
        return self.cell(self.params, y, self.x)

    def damped_newton_step(
        self, y: State, residual: State, damping: Float[Array, ""]
    ) -> tuple[State, Bool[Array, ""]]:
        """GMRES on v -> (1 + damping) v - J v; its own accuracy only affects the number of steps.

        The outer iteration judges itself by the true residual, so an inexact step is an inexact
        Newton step and never a wrong answer.
        """
        _, tangent_map = jax.linearize(self.map, y)
        step = solve_krylov(lambda v: (1 + damping) * v - tangent_map(v), residual)
        return step, jnp.array(True)


def solve_krylov(
    operator: Callable[[State], State],
    rhs: State,
    linear_solver: lx.AbstractLinearSolver | None = None,
) -> State:
    """Solve operator(v) = rhs without a matrix, differentiably.

    The default is restarted GMRES at a relative tolerance of eps^(3/4). It never raises: callers
    check the residual of what comes back.
    """
    if linear_solver is None:
        tolerance = float(jnp.finfo(rhs.dtype).eps) ** 0.75
        # Without restarts GMRES ends after n steps in exact arithmetic; 40 bounds its memory.
        restart = max(1, min(rhs.size, 40))
        linear_solver = lx.GMRES(
            rtol=tolerance, atol=0.0, restart=restart, stagnation_iters=restart, max_steps=20
        )
    structure = jax.ShapeDtypeStruct(rhs.shape, rhs.dtype)

    def solve(matvec: Callable[[State], State], b: State) -> State:
        linear_operator = lx.FunctionLinearOperator(matvec, structure)
        return lx.linear_solve(linear_operator, b, linear_solver, throw=False).value

    # JAX's own rule for a linear solve, not lineax's: there the solves of a second derivative
    # raise when GMRES breaks down, as it does on a system that it has already solved.
    return jax.lax.custom_linear_solve(operator, rhs, solve, transpose_solve=solve)
