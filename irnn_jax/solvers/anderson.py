"""Anderson acceleration of Picard's iteration, for wide layers that contract."""

import dataclasses
import functools

from irnn_jax.iterations.acceleration import Acceleration
from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, check_positive, solved_at, tolerance_at
from irnn_jax.xla.loops import Loop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anderson:
    """Each step goes where a linear model of the last few steps puts the equilibrium.

    One product with A a step, and no linear system in n unknowns. It does not follow the flow:
    where there are several equilibria it may end at any, and it need not end. For networks that
    contract, wide ones above all (`irnn_jax/iterations/acceleration.py`).

    Attributes:
        memory: how many differences are kept.
        mixing: the factor on the velocity, 1 for Picard's step.
        ridge: what is added to the normal equations, relative to their largest diagonal entry, at
            least the dtype's rounding.
        max_steps: the most products with A.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    memory: int = 5
    mixing: float = 1.0
    ridge: float = 1e-12
    max_steps: int = 500
    tolerance: float | None = None

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Iterate from y0 until every sample is within the tolerance, or not a number."""
        tolerance = functools.partial(tolerance_at, self, problem)
        acceleration = Acceleration(
            memory=self.memory, mixing=self.mixing, ridge=self.ridge, max_steps=self.max_steps
        )
        history = acceleration(problem.value, y0, tolerance, problem.layout, loop)
        residual = problem.layout.size(history.velocity)
        return solved_at(
            problem,
            history.state,
            num_steps=history.num_steps,
            finished=~(residual > tolerance(history.state)),
            residual=residual,
        )
