"""The flow itself, integrated by any diffrax solver until it rests."""

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
    tolerance_of,
)
from irnn_jax.xla.loops import Loop


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow:
    """Integrate dY/dt = f(A Y + b) - Y (eqs. 7, 8) with a diffrax solver and controller.

    The slowest and the most literal way to the equilibrium; Kvaerno5 is the choice for stiff
    weights.

    Attributes:
        solver: any diffrax ODE solver.
        stepsize_controller: any diffrax controller; `diffrax.ConstantStepSize()` needs
            `first_step`. None: a PI controller with rtol = atol = `tolerance`. Looser ones let an
            explicit method hover about the equilibrium at the size of its local error.
        first_step: first or constant step size; None lets the controller choose.
        max_time: in units of the layer's time constant.
        max_steps: rejected steps included.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    solver: diffrax.AbstractSolver = diffrax.Tsit5()
    stepsize_controller: diffrax.AbstractStepSizeController | None = None
    first_step: float | None = None
    max_time: float = 1e5
    max_steps: int = 20_000
    tolerance: float | None = None
    own_time: ClassVar[bool] = True

    def __post_init__(self):
        check_positive(
            first_step=self.first_step,
            max_time=self.max_time,
            max_steps=self.max_steps,
            tolerance=self.tolerance,
        )

    @sample_by_sample
    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Integrate from y0 until the residual is below the tolerance."""
        tolerance = functools.partial(tolerance_at, self, problem)
        controller = self.stepsize_controller
        if controller is None:
            relative = tolerance_of(self, problem, y0.dtype)
            controller = diffrax.PIDController(rtol=relative, atol=tolerance(y0))
        state, num_steps, time = follow_by_diffrax(
            problem,
            y0,
            loop,
            solver=self.solver,
            controller=controller,
            first_step=self.first_step,
            max_steps=self.max_steps,
            tolerance=tolerance,
            max_time=self.max_time,
        )
        # Steps of a given length may circle an equilibrium that the flow itself would reach.
        given = isinstance(controller, diffrax.ConstantStepSize | diffrax.StepTo)
        return solved_at(problem, state, num_steps=num_steps, time=0.0 if given else time)
