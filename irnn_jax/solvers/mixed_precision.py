"""Most steps in float32, the last ones in float64."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from irnn_jax.problem import Problem, State, default_tolerance
from irnn_jax.solvers.base import Solved, unsolved
from irnn_jax.solvers.follow_then_newton import NEWTON_STEP_SIZE
from irnn_jax.solvers.in_chunks import InChunks
from irnn_jax.solvers.pseudo_transient import PseudoTransient
from irnn_jax.xla.loops import Loop


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

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Iterate from y0."""
        single = problem.in_precision(jnp.float32) if y0.dtype == jnp.float64 else None
        if single is None:
            return self.solver.solve(problem, y0, loop)
        found = self._coarse(single, y0.astype(jnp.float32), loop)
        rests = found.residual <= default_tolerance(jnp.float32) * single.scale_at(found.state)
        # From there on Newton's method; where it fails, and elsewhere, the flow.
        first = self.solver.first_step_sizes(problem, y0)
        first = jnp.where(rests, NEWTON_STEP_SIZE, first)
        start = jnp.where(rests, found.state.astype(y0.dtype), y0)
        solved = self.solver.proceed(problem, start, first, loop)
        return solved._replace(
            num_steps=found.num_steps + solved.num_steps,
            time=solved.time + jnp.where(rests, found.time.astype(y0.dtype), 0),
            finished=found.finished & solved.finished,
            error=jnp.where(rests, found.error.astype(y0.dtype), solved.error),
        )

    def _coarse(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """In float32, to its accuracy; unless all samples contract."""

        def solve(_: Solved, problem: Problem, y0: State) -> Solved:
            return self.solver.solve(problem, y0, loop)

        nowhere = unsolved(y0, problem.layout.size(y0))
        if problem.contracts is None:
            return solve(nowhere, problem, y0)
        return loop.run_if(jnp.any(~problem.contracts), solve, nowhere, problem, y0)
