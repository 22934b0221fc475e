"""Several solvers in turn, each for the samples on which the ones before it failed."""

import dataclasses
import functools

import diffrax
import jax
import jax.numpy as jnp

from irnn_jax.lazily import at_most_once
from irnn_jax.problem import DenseProblem, Problem, State
from irnn_jax.solvers.base import Solved, Solver, residual_of, tolerance_of
from irnn_jax.solvers.flow import Flow
from irnn_jax.solvers.in_pieces import those_that_need_it
from irnn_jax.solvers.pseudo_transient import PseudoTransient


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cascade:
    """What fails is solved again from the start, more cautiously, only where it failed.

    In one jitted call, also under `vmap`: a later solver is a loop that is not entered unless a
    sample of the batch needs it, so where all converge the cascade costs what its first solver
    does; and of a large batch on one CPU it gets only those that do, of small networks that `vmap`
    adds all at once. Under `Unrolled` every solver runs for all, since reverse mode cannot skip.

    Attributes:
        solvers: from the fastest to the most cautious. The default: pseudo-transient continuation,
            the same with small errors, the flow by diffrax's Kvaerno5. What converged is judged by
            the first one's tolerance.
    """

    solvers: tuple[Solver, ...] = (
        PseudoTransient(),
        PseudoTransient().more_cautious(),
        Flow(
            solver=diffrax.Kvaerno5(),
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8),
            max_time=1000.0,
            max_steps=2000,
        ),
    )

    def __post_init__(self):
        if not isinstance(self.solvers, tuple | list) or not self.solvers:
            raise ValueError(f"solvers must be a tuple of solvers, got {self.solvers!r}")
        for solver in self.solvers:
            if not isinstance(solver, Solver) or isinstance(solver, type):
                raise ValueError(f"solvers must be solvers, got {solver!r}")
        # A hashable field, also when a list was given.
        object.__setattr__(self, "solvers", tuple(self.solvers))

    @property
    def tolerance(self) -> float | None:
        """The first solver's: what counts as converged is the same for all."""
        return self.solvers[0].tolerance

    def more_cautious(self) -> Solver:
        """The solvers after the first; the last one has no successor."""
        return Cascade(solvers=self.solvers[1:] or self.solvers)

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Run the solvers in turn until one converges."""

        def failed(solved: Solved, problem: Problem) -> jax.Array:
            tolerance = tolerance_of(self, problem, y0.dtype)
            return ~(residual_of(problem, solved) <= tolerance)

        def retry(solver: Solver, before: Solved, problem: Problem, y0: State) -> Solved:
            # A sample that has converged starts where it is, and is done after a step.
            again = failed(before, problem)
            solved = solver.solve(problem, jnp.where(again, y0, before.state), adjoint)
            after, residual = residual_of(problem, solved), residual_of(problem, before)
            return Solved(
                state=jnp.where(again, solved.state, before.state),
                num_steps=before.num_steps + jnp.where(again, solved.num_steps, 0),
                time=jnp.where(again, solved.time, before.time),
                finished=jnp.where(again, solved.finished, before.finished),
                residual=jnp.where(again, after, residual),
            )

        def retry_in_pieces(solver: Solver, before: Solved, problem: Problem, y0: State) -> Solved:
            again, needed = functools.partial(retry, solver), failed(before, problem)
            return those_that_need_it(again, needed, before, problem, y0)

        solved = self.solvers[0].solve(problem, y0, adjoint)
        if isinstance(problem, DenseProblem):
            # What failed is not solved by what rests on the proof; without it there is less to
            # compile.
            problem = dataclasses.replace(problem, contracts=None)
        chord = solved.chord
        solved = solved._replace(residual=residual_of(problem, solved), chord=None)
        for solver in self.solvers[1:]:
            if isinstance(adjoint, diffrax.ForwardMode):
                again = functools.partial(retry_in_pieces, solver)
                solved = at_most_once(failed(solved, problem), again, solved, problem, y0)
            else:
                solved = retry(solver, solved, problem, y0)
        return solved._replace(chord=chord)
