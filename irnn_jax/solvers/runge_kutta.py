"""The paper's own solver: the classical Runge-Kutta method, a fixed number of fixed steps."""

import dataclasses
from typing import ClassVar

import diffrax
import numpy as np

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import (
    Solved,
    check_positive,
    follow_by_diffrax,
    sample_by_sample,
    solved_at,
)
from irnn_jax.xla.loops import Loop


class ClassicalRungeKutta(diffrax.AbstractERK):
    """RK4 (Kutta, 1901), which diffrax leaves out because it has no error estimate."""

    tableau: ClassVar = diffrax.ButcherTableau(
        a_lower=(np.array([1 / 2]), np.array([0.0, 1 / 2]), np.array([0.0, 0.0, 1.0])),
        b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
        b_error=np.zeros(4),
        c=np.array([1 / 2, 1 / 2, 1.0]),
    )
    interpolation_cls: ClassVar = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms):
        """Fourth order."""
        del terms
        return 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class RungeKutta4:
    """RK4 on the flow for exactly `num_steps` steps of `step_size` (section 3.4).

    Kept as the paper has it, for comparison: at trained weights the flow is stiff, this explicit
    step unstable, and many samples come back unconverged (and flagged).

    Attributes:
        num_steps: all are taken, converged or not.
        step_size: in units of the layer's time constant.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype. The
            paper reports about 1e-8.
    """

    num_steps: int = 30
    step_size: float = 1.0
    tolerance: float | None = None
    own_time: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))

    @sample_by_sample
    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Take the steps."""
        state, num_steps, _ = follow_by_diffrax(
            problem,
            y0,
            loop,
            solver=ClassicalRungeKutta(),
            controller=diffrax.ConstantStepSize(),
            first_step=self.step_size,
            max_steps=self.num_steps,
            tolerance=None,
        )
        return solved_at(problem, state, num_steps=num_steps)
