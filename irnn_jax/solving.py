"""From a problem to a solution: run the solver, judge each sample, keep only stable equilibria."""

import dataclasses
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from irnn_jax.gradients import Gradient, ImplicitGradient, Unrolled
from irnn_jax.lazily import at_most_once
from irnn_jax.problem import DenseProblem, Problem, State
from irnn_jax.solvers import Solver
from irnn_jax.solvers.base import Escalating, residual_of, tolerance_of
from irnn_jax.solvers.chord import Chord
from irnn_jax.solvers.in_pieces import those_that_need_it
from irnn_jax.spectrum import find_unstable
from irnn_jax.status import Status, judge


class Solution(NamedTuple):
    """An equilibrium as flat states; see `irnn_jax.Equilibrium` and `Solved` for the fields."""

    state: Float[Array, "*batch n"]
    residual: Float[Array, "*batch"]
    num_steps: Int[Array, "*batch"]
    status: Int[Array, "*batch"]
    chord: Chord | None = None

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Which samples may be used."""
        return self.status == Status.CONVERGED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Everything about a solve that is static under jit."""

    solver: Solver
    gradient: Gradient
    throw: bool = False

    def __post_init__(self):
        # A class has the methods too: `solver=Picard`, without parentheses, is a likely slip.
        if not isinstance(self.solver, Solver) or isinstance(self.solver, type):
            raise ValueError(f"solver must be one of the solvers, got {self.solver!r}")
        known = isinstance(self.gradient, ImplicitGradient | Unrolled)
        if not known or isinstance(self.gradient, type):
            raise ValueError(f"gradient must be one of the gradients, got {self.gradient!r}")

    def diffrax_adjoint(self) -> diffrax.AbstractAdjoint:
        """Only `Unrolled` differentiates the loop; the plain loop is fastest for the others."""
        if isinstance(self.gradient, Unrolled):
            return self.gradient.diffrax_adjoint()
        return diffrax.ForwardMode()


def solve_batch(problem: Problem, y0: State, method: Method) -> Solution:
    """Run the solver on states (n, *batch) and judge where each sample stopped.

    The solution's state is (n, *batch) too.
    """
    solved = method.solver.solve(problem, y0, method.diffrax_adjoint())
    state = solved.state
    residual = residual_of(problem, solved)
    # A NaN is not comparable; what a caller can act on is "infinitely far from equilibrium".
    residual = jnp.where(jnp.isnan(residual), jnp.inf, residual)
    tolerance = tolerance_of(method.solver, problem, state.dtype)
    status = judge(residual, jax.lax.stop_gradient(solved.time), tolerance)
    return Solution(
        state=state,
        residual=residual,
        num_steps=solved.num_steps,
        status=status,
        chord=jax.lax.stop_gradient(solved.chord),
    )


def only_stable(problem: DenseProblem, solution: Solution, method: Method) -> Solution:
    """Flag the equilibria that the flow would leave, after one more, cautious attempt at each.

    Most of them are what Newton's method finds inside a limit cycle. The others hide an equilibrium
    that the flow does reach, for a solver that follows it more closely; so do some samples that did
    not converge at all, and they are attempted again too.
    """

    def flagged(problem: DenseProblem, solution: Solution) -> Solution:
        _, slope = problem.map_and_slope(solution.state)
        jacobian = jnp.moveaxis(slope[:, None] * problem.matrix, (0, 1), (-2, -1))
        unstable = find_unstable(jacobian, solution.converged)
        status = jnp.where(unstable, Status.UNSTABLE, solution.status)
        return solution._replace(status=status, chord=None)

    def missing(solution: Solution) -> Bool[Array, "*batch"]:
        return ~solution.converged & (solution.status != Status.NON_FINITE)

    def retried(solution: Solution, problem: DenseProblem) -> Solution:
        again = missing(solution)
        # The others start where they are, and are done after a step.
        start = jnp.where(again, 0, solution.state)
        second = flagged(problem, solve_batch(problem, start, cautious))
        better = again & second.converged
        chosen = jax.tree.map(lambda new, old: jnp.where(better, new, old), second, solution)
        num_steps = solution.num_steps + jnp.where(again, second.num_steps, 0)
        return chosen._replace(num_steps=num_steps)

    def retried_in_pieces(solution: Solution, problem: DenseProblem) -> Solution:
        return those_that_need_it(retried, missing(solution), solution, problem)

    # The chord belongs to no sample, and stays what it is.
    chord, solution = solution.chord, flagged(problem, solution)
    if isinstance(method.solver, Escalating):
        cautious = dataclasses.replace(method, solver=method.solver.more_cautious())
        # No reverse mode goes through a loop that may be skipped.
        if isinstance(method.gradient, Unrolled):
            solution = retried(solution, problem)
        else:
            solution = at_most_once(missing(solution), retried_in_pieces, solution, problem)
    return solution._replace(chord=chord)
