"""Most steps in float32, the last ones in float64."""

import dataclasses
from typing import Any

import diffrax
import jax.numpy as jnp

from irnn_jax.lazily import at_most_once
from irnn_jax.precision import in_precision
from irnn_jax.problem import DenseProblem, Problem, State
from irnn_jax.solvers.base import Solved, default_tolerance, residual_of
from irnn_jax.solvers.follow_then_newton import NEWTON_STEP_SIZE
from irnn_jax.solvers.in_chunks import InChunks
from irnn_jax.solvers.pseudo_transient import PseudoTransient


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedPrecision:
    """Follow the flow in float32, then take Newton steps in float64, to float64's accuracy.

    The way to the equilibrium is followed to a few percent anyway; only the end needs the digits.
    A sample that does not come to rest in float32 is solved in float64 from the start. Where a map
    is known to contract there is no way to be followed. A state of float32, and a cell, which
    decides about its own precision, are solved by `solver` alone.

    Attributes:
        solver: pseudo-transient continuation, whole or `InChunks`, for both precisions; its
            tolerance is for float64.
    """

    solver: Any = PseudoTransient()

    def __post_init__(self):
        if not isinstance(self.solver, PseudoTransient | InChunks):
            raise ValueError(
                f"solver must be a PseudoTransient or an InChunks, got {self.solver!r}"
            )

    @property
    def tolerance(self) -> float | None:
        """In float64."""
        return self.solver.tolerance

    def more_cautious(self) -> PseudoTransient:
        """In float64 from the start."""
        return self.solver.more_cautious()

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Iterate from y0."""
        if y0.dtype != jnp.float64 or not isinstance(problem, DenseProblem):
            return self.solver.solve(problem, y0, adjoint)
        found = self._coarse(problem, y0, adjoint)
        rests = residual_of(problem, found) <= default_tolerance(jnp.float32)
        # From there on Newton's method; where it fails, and elsewhere, the flow.
        first = self.solver.first_step_sizes(problem, y0)
        first = jnp.where(rests, NEWTON_STEP_SIZE, first)
        start = jnp.where(rests, found.state.astype(y0.dtype), y0)
        solved = self.solver.proceed(problem, start, first, adjoint)
        return Solved(
            state=solved.state,
            num_steps=found.num_steps + solved.num_steps,
            time=solved.time + jnp.where(rests, jnp.asarray(found.time, y0.dtype), 0),
            finished=found.finished & solved.finished,
            residual=solved.residual,
        )

    def _coarse(self, problem: DenseProblem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """In float32, to its accuracy, whatever the tolerance; unless all samples contract."""
        batch = y0.shape[1:]
        tolerance = jnp.full(batch, default_tolerance(jnp.float32))
        problem = dataclasses.replace(problem, tolerance=tolerance)

        def solve(_: Solved, problem: DenseProblem, y0: State) -> Solved:
            single = in_precision(problem, jnp.float32)
            found = self.solver.solve(single, y0.astype(jnp.float32), adjoint)
            return found._replace(residual=residual_of(single, found))

        nowhere = Solved(
            state=y0.astype(jnp.float32),
            num_steps=jnp.zeros(batch, jnp.int32),
            time=jnp.zeros(batch, jnp.float32),
            finished=jnp.ones(batch, bool),
            residual=jnp.full(batch, jnp.inf, jnp.float32),
        )
        if problem.contracts is None or not isinstance(adjoint, diffrax.ForwardMode):
            return solve(nowhere, problem, y0)
        return at_most_once(jnp.any(~problem.contracts), solve, nowhere, problem, y0)
