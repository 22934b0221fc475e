"""Several solvers in turn, each for the samples on which the ones before it failed."""

import dataclasses

import diffrax
import jax

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, Solver, tolerance_at
from irnn_jax.solvers.flow import Flow
from irnn_jax.solvers.pseudo_transient import PseudoTransient
from irnn_jax.solvers.retry import retry
from irnn_jax.xla.loops import Loop


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
        PseudoTransient(
            first_step=0.1,
            error_tolerance=0.002,
            reject_above=0.01,
            newton_within=0.02,
            max_steps=800,
        ),
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

    @property
    def own_time(self) -> bool:
        """Whether one of them follows each sample in a time of its own, as diffrax does."""
        return any(getattr(solver, "own_time", False) for solver in self.solvers)

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Run the solvers in turn until one converges."""

        def failed(problem: Problem, solved: Solved) -> jax.Array:
            return ~(solved.residual <= tolerance_at(self, problem, solved.state))

        solved = self.solvers[0].solve(problem, y0, loop)
        for solver in self.solvers[1:]:
            # What failed is not solved by what rests on a proof that the map contracts; without it
            # there is less to compile.
            solved = retry(solver, problem.unproven(), y0, solved, failed, loop)
        return solved
