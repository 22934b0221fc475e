"""Explicit Euler steps on the flow, and Picard iteration, which is Euler with step 1."""

import dataclasses
import functools
from typing import ClassVar

import diffrax

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import (
    Solved,
    check_positive,
    follow_by_diffrax,
    sample_by_sample,
    solved_at,
    tolerance_at,
)
from irnn_jax.xla.loops import Loop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler:
    """Y <- Y + step_size (f(A Y + b) - Y) until the residual is below the tolerance (section 3.4).

    Attributes:
        step_size: in units of the layer's time constant.
        max_steps: the most steps to take.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    step_size: float = 0.1
    max_steps: int = 2000
    tolerance: float | None = None
    own_time: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))

    @sample_by_sample
    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Iterate from y0."""
        state, num_steps, _ = follow_by_diffrax(
            problem,
            y0,
            loop,
            solver=diffrax.Euler(),
            controller=diffrax.ConstantStepSize(),
            first_step=self.step_size,
            max_steps=self.max_steps,
            tolerance=functools.partial(tolerance_at, self, problem),
        )
        return solved_at(problem, state, num_steps=num_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picard:
    """Y <- f(A Y + b), the iterative recurrent network of section 2.1 (eq. 11).

    Attributes:
        max_steps: the most iterations to take.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    max_steps: int = 2000
    tolerance: float | None = None
    own_time: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Iterate from y0."""
        as_euler = Euler(step_size=1.0, max_steps=self.max_steps, tolerance=self.tolerance)
        return as_euler.solve(problem, y0, loop)
