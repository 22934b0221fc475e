"""What a solver sees: the map Y -> f(A Y + b), and solves with its linearisation.

Two kinds, one interface. States are (n, *batch): a neuron's samples lie side by side.
`DenseProblem` holds the matrix and factorises; `CellProblem` holds any function on a flat state and
solves by Krylov iteration on Jacobian-vector products. Both are pytrees, so that they travel
through diffrax as its `args`.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int

from irnn_jax.activations import Activation, value_and_slope
from irnn_jax.krylov import gmres
from irnn_jax.linear import Blocks, Inverse, Lapack, factorize, multiply
from irnn_jax.precision import in_precision

State = Float[Array, "n *batch"]

# Up to here one factorisation a sample costs less than GMRES: `python -m benchmarks.linear_solves`.
DIRECT_UP_TO = 100


@runtime_checkable
class DampedSystem(Protocol):
    """The matrices (1 + damping) I - J of a batch, for any number of solves with them.

    They are solved in float32, in less time and memory than in float64: what a solve leaves of a
    step is the next step's to find, by F in the precision of the state.

    `is_iterative` says whether a solve is a loop, of which a program should have one.
    """

    is_iterative: ClassVar[bool]

    def solve(self, rhs: State) -> State:
        """Solve ((1 + damping) I - J) x = rhs, in float32."""
        ...

    def determinant_is_positive(self) -> Bool[Array, "*batch"]:
        """Whether each matrix's determinant is positive; true when unknown.

        It is negative only if an odd number of real eigenvalues of J - I lie above `damping`.
        """
        ...


@runtime_checkable
class Problem(Protocol):
    """A batch of fixed-point problems Y = map(Y) on flat states (n, *batch).

    `tolerance` is the largest residual that counts as converged, of each sample, (*batch); None:
    the solver's. `contracts` says of each sample whether it is known to have one equilibrium only;
    None: of none.
    """

    @property
    def tolerance(self) -> Float[Array, "*batch"] | None:
        """Of each sample."""
        ...

    @property
    def contracts(self) -> Bool[Array, "*batch"] | None:
        """Of each sample."""
        ...

    def map(self, y: State) -> State:
        """The right-hand side f(A Y + b)."""
        ...

    def map_and_slope(self, y: State) -> tuple[State, Array]:
        """`map` at y, and what `damped_newton` wants to know there."""
        ...

    def damped_newton(
        self, y: State, slope: Array, damping: Float[Array, "*batch"]
    ) -> DampedSystem:
        """(1 + damping) I - J, with J the Jacobian of `map` at y."""
        ...

    def along_last_axis(self) -> tuple["Problem", Any]:
        """The problem, and the `in_axes` with which `jax.vmap` goes through its last batch axis."""
        ...

    def linear_accuracy(self, dtype: Any) -> float:
        """Relative error that the solves of `damped_newton` leave, in units of 1/rate."""
        ...


class DenseProblem(eqx.Module):
    """Y = f(A Y + b) with the matrix at hand: A (n, n, *batch), b (n, *batch).

    A has as many batch axes as b, of length one where the samples share it.
    """

    matrix: Float[Array, "n n *shared"]
    drive: State
    activation: Activation = eqx.field(static=True)
    tolerance: Float[Array, "*batch"] | None = None
    contracts: Bool[Array, "*batch"] | None = None

    def map(self, y: State) -> State:
        """f(A Y + b)."""
        return self.activation(multiply(self.matrix, y) + self.drive)

    def map_and_slope(self, y: State) -> tuple[State, State]:
        """F and D = f' at A Y + b."""
        return value_and_slope(self.activation, multiply(self.matrix, y) + self.drive)

    def damped_newton(
        self, y: State, slope: State, damping: Float[Array, "*batch"]
    ) -> DampedSystem:
        """Factorise I - D A/(1 + damping), and divide every solution: fewer operations an entry."""
        matrix, slope, scale = in_precision((self.matrix, slope, 1 + damping), jnp.float32)
        n, tolerance = len(y), self.linear_accuracy(y.dtype)
        if n > DIRECT_UP_TO:
            return WideSystem(matrix=matrix, slope=slope, scale=scale, tolerance=tolerance)
        identity = jnp.eye(n, dtype=jnp.float32).reshape(n, n, *(1,) * (y.ndim - 1))
        factors = factorize(identity - (slope / scale)[:, None] * matrix)
        return ScaledSystem(factors=factors, scale=scale)

    def along_last_axis(self) -> tuple[Problem, Any]:
        """Through the drives, and through the matrices unless the samples share one."""
        if self.matrix.shape[-1] == self.drive.shape[-1]:
            return self, -1
        shared = eqx.tree_at(lambda problem: problem.matrix, self, self.matrix[..., 0])
        along: Any = jax.tree.map(lambda _: -1, shared)
        return shared, eqx.tree_at(lambda p: p.matrix, along, None)

    def at_samples(self, index: Int[Array, " samples"]) -> "DenseProblem":
        """The problems of these samples, of a batch with one axis."""
        return jax.tree.map(lambda leaf: leaf if leaf.shape[-1] == 1 else leaf[..., index], self)

    def linear_accuracy(self, dtype: Any) -> float:
        """Some roundings of float32, unless it is wide: then as for a cell."""
        if self.drive.shape[0] <= DIRECT_UP_TO:
            return 16 * float(jnp.finfo(jnp.float32).eps)
        return float(jnp.finfo(dtype).eps) ** 0.25


class ScaledSystem(eqx.Module):
    """A factorised matrix times a number for each sample."""

    factors: Inverse | Blocks | Lapack
    scale: Float[Array, "*batch"]
    is_iterative: ClassVar[bool] = False

    def solve(self, rhs: State) -> State:
        """Solve scale M x = rhs."""
        return self.factors.solve(rhs.astype(jnp.float32)) / self.scale

    def determinant_is_positive(self) -> Bool[Array, "*batch"]:
        """The scale is positive, and does not change the sign."""
        return self.factors.determinant_is_positive()


class WideSystem(eqx.Module):
    """scale I - D A for a batch of wide systems, by products with the matrices alone."""

    matrix: Float[Array, "n n *shared"]
    slope: State
    scale: Float[Array, "*batch"]
    tolerance: float = eqx.field(static=True)
    is_iterative: ClassVar[bool] = True

    def solve(self, rhs: State) -> State:
        """Solve (scale I - D A) x = rhs by GMRES, whose products are one with a shared matrix."""

        def operator(v: State) -> State:
            return self.scale * v - self.slope * multiply(self.matrix, v)

        def solve(operator: Callable[[State], State], rhs: State) -> State:
            return gmres(operator, rhs, self.tolerance)

        # JAX's rule for a linear solve differentiates the system, and never how it is solved.
        rhs = rhs.astype(jnp.float32)
        return jax.lax.custom_linear_solve(operator, rhs, solve, transpose_solve=solve)

    def determinant_is_positive(self) -> Bool[Array, ""]:
        """Nothing is known of the determinant."""
        return jnp.array(True)


class KrylovSystem(eqx.Module):
    """A matrix that is only known by what solves with it."""

    inverse: Callable[[State], State]
    is_iterative: ClassVar[bool] = True

    def solve(self, rhs: State) -> State:
        """Solve M x = rhs."""
        return self.inverse(rhs).astype(jnp.float32)

    def determinant_is_positive(self) -> Bool[Array, ""]:
        """Nothing is known of the determinant."""
        return jnp.array(True)


class CellProblem(eqx.Module):
    """Y = cell(params, Y, x) on the flat state (n,) of one sample, by products with J."""

    cell: Callable[[Any, State, Any], State] = eqx.field(static=True)
    params: Any
    x: Any
    tolerance: None = eqx.field(static=True, default=None)
    contracts: None = eqx.field(static=True, default=None)

    def map(self, y: State) -> State:
        """cell(params, Y, x)."""
        return self.cell(self.params, y, self.x)

    def map_and_slope(self, y: State) -> tuple[State, Float[Array, ""]]:
        """The cell, and nothing: a scalar stands for it, since diffrax's loop takes arrays."""
        return self.map(y), jnp.zeros((), y.dtype)

    def along_last_axis(self) -> tuple[Problem, Any]:
        """A cell takes one sample; its callers batch it with `jax.vmap`."""
        raise TypeError("a cell has no batch axes")

    def damped_newton(
        self, y: State, slope: Float[Array, ""], damping: Float[Array, ""]
    ) -> DampedSystem:
        """GMRES on v -> (1 + damping) v - J v; its own accuracy only affects the number of steps.

        In the precision of the state, in which the cell is written.

        The outer iteration judges itself by the true residual, so an inexact step is an inexact
        Newton step and never a wrong answer.
        """
        del slope
        _, tangent_map = jax.linearize(self.map, y)

        scale = (1 + damping).astype(y.dtype)

        def solve(rhs: State) -> State:
            rhs = rhs.astype(y.dtype)
            gmres = lineax_gmres(rhs, self.linear_accuracy(y.dtype))
            return solve_krylov(lambda v: scale * v - tangent_map(v), rhs, gmres)

        return KrylovSystem(inverse=solve)

    def linear_accuracy(self, dtype: Any) -> float:
        """eps^(1/4): two such solves a step leave eps^(1/2) of the distance to the equilibrium."""
        return float(jnp.finfo(dtype).eps) ** 0.25


def lineax_gmres(rhs: State, tolerance: float) -> lx.GMRES:
    """Restarted GMRES to a relative residual of `tolerance`.

    Without restarts GMRES ends after n steps in exact arithmetic; 40 bounds its memory.
    """
    restart = max(1, min(rhs.size, 40))
    return lx.GMRES(
        rtol=tolerance, atol=0.0, restart=restart, stagnation_iters=restart, max_steps=20
    )


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
        linear_solver = lineax_gmres(rhs, float(jnp.finfo(rhs.dtype).eps) ** 0.75)
    structure = jax.ShapeDtypeStruct(rhs.shape, rhs.dtype)

    def solve(matvec: Callable[[State], State], b: State) -> State:
        linear_operator = lx.FunctionLinearOperator(matvec, structure)
        return lx.linear_solve(linear_operator, b, linear_solver, throw=False).value

    # JAX's own rule for a linear solve, not lineax's: there the solves of a second derivative
    # raise when GMRES breaks down, as it does on a system that it has already solved.
    return jax.lax.custom_linear_solve(operator, rhs, solve, transpose_solve=solve)
