"""The default: which solver, by the size of what is to be solved."""

import dataclasses

import diffrax

from irnn_jax.problem import DenseProblem, Problem, State
from irnn_jax.solvers.base import Solved, Solver, check_positive
from irnn_jax.solvers.cascade import Cascade
from irnn_jax.solvers.exponential import Exponential
from irnn_jax.solvers.in_chunks import InChunks
from irnn_jax.solvers.in_pieces import on_one_cpu
from irnn_jax.solvers.mixed_precision import MixedPrecision
from irnn_jax.solvers.pseudo_transient import PseudoTransient

# `python -m benchmarks.auto_choice`: with more neurons a factorisation a sample and step costs
# more than products with A; with more samples, most steps in float32, and on a CPU in chunks.
CONTINUE_UP_TO = 24
MANY_FROM = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto:
    """The fastest of the solvers that follow the flow, chosen when a program is traced.

    - up to 24 neurons: `PseudoTransient`; from 200 samples on in `MixedPrecision`, on a CPU
      `InChunks`, which finds the same (with several devices only inside `jax.shard_map`: elsewhere
      the samples may be spread over them);
    - more neurons: `Exponential`, and one of the former for the samples on which it fails;
    - a cell, whose matrix is not known: `PseudoTransient`.

    Attributes:
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    tolerance: float | None = None

    def __post_init__(self):
        check_positive(tolerance=self.tolerance)

    def choose(self, problem: Problem, y0: State) -> Solver:
        """The solver for this problem and batch, (n, *batch)."""
        continuation = PseudoTransient(tolerance=self.tolerance)
        if not isinstance(problem, DenseProblem):
            return continuation
        if y0.shape[0] > CONTINUE_UP_TO:
            return Cascade(solvers=(Exponential(tolerance=self.tolerance), continuation))
        if y0[0].size < MANY_FROM:
            return continuation
        return MixedPrecision(
            solver=InChunks(solver=continuation) if on_one_cpu() else continuation
        )

    def more_cautious(self) -> Solver:
        """Pseudo-transient continuation that keeps close to the flow."""
        return PseudoTransient(tolerance=self.tolerance).more_cautious()

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """By what is chosen."""
        return self.choose(problem, y0).solve(problem, y0, adjoint)
