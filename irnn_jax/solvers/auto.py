"""The default: which solver, by what is to be solved."""

import dataclasses
from typing import ClassVar

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, Solver, check_positive
from irnn_jax.solvers.cascade import Cascade
from irnn_jax.solvers.exponential import Exponential
from irnn_jax.solvers.in_chunks import InChunks
from irnn_jax.solvers.mixed_precision import MixedPrecision
from irnn_jax.solvers.pseudo_transient import PseudoTransient
from irnn_jax.xla.device import on_one_cpu
from irnn_jax.xla.loops import Loop
from irnn_jax.xla.tuning import MANY_FROM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto:
    """The fastest of the solvers that follow the flow, chosen when a program is traced.

    - a network of up to 24 neurons: `PseudoTransient`; from 200 samples on in `MixedPrecision`, on
      a CPU `InChunks`, which finds the same (with several devices only inside `jax.shard_map`:
      elsewhere the samples may be spread over them);
    - more neurons, and any cell: `Exponential`; up to 100 neurons `PseudoTransient` for the samples
      on which it fails.

    Where these fail, or cannot be sure, the flow is followed closely (`solvers/trusted.py`).

    Attributes:
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    tolerance: float | None = None
    makes_sure: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(tolerance=self.tolerance)

    def choose(self, problem: Problem, y0: State) -> Solver:
        """The solver for this problem and batch."""
        continuation = PseudoTransient(tolerance=self.tolerance)
        if not problem.factorises:
            followed = Exponential(tolerance=self.tolerance)
            if not problem.is_direct:
                return followed
            return Cascade(solvers=(followed, continuation))
        count = y0[0].size
        # A size that an exported program leaves open is not a number yet.
        if not isinstance(count, int) or count < MANY_FROM:
            return continuation
        return MixedPrecision(
            solver=InChunks(solver=continuation) if on_one_cpu() else continuation
        )

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """By what is chosen."""
        return self.choose(problem, y0).solve(problem, y0, loop)
