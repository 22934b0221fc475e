"""Pseudo-transient continuation: follow the flow while it matters, end as Newton's method.

A diffrax solver (`LinearlyImplicitEuler`) and a step size controller (`GrowWherePredictable`),
run by `diffrax.diffeqsolve`. After Kelley and Keyes, "Convergence analysis of pseudo-transient
continuation", SIAM J. Numer. Anal. 35 (1998).
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import (
    Solved,
    check_positive,
    integrate,
    max_norm,
    tolerance_of,
)


class StepReport(NamedTuple):
    """What the step tells the controller, in diffrax's place for an error estimate.

    Attributes:
        error: how far the linear model missed the flow's velocity, in units of the activities.
        across_pole: the step leapt over a pole of ((1/h + 1) I - D A)^-1, so its direction along
            some unstable mode is reversed.
    """

    error: Float[Array, ""]
    across_pole: Float[Array, ""]


class Iterate(NamedTuple):
    """What diffrax integrates: the activities, and what else is known where they are.

    Attributes:
        state: Y, (n,).
        velocity: F(Y) = f(A Y + b) - Y, (n,), so that it is evaluated once a step and not again
            by the event.
        step_amplified: max|step|^2 / max|F(Y0)| of the step that led here, ().
    """

    state: State
    velocity: State
    step_amplified: Float[Array, ""]


def flow(t: Any, iterate: Iterate, problem: Problem) -> Iterate:
    """The vector field dY/dt = F(Y); what is carried along has no dynamics of its own."""
    del t
    velocity = problem.map(iterate.state) - iterate.state
    return jax.tree.map(jnp.zeros_like, iterate)._replace(state=velocity)


class LinearlyImplicitEuler(diffrax.AbstractSolver):
    """Y1 = Y0 + ((1/h + 1) I - D A)^-1 F(Y0), with F(Y) = f(A Y + b) - Y and h = t1 - t0.

    For h -> 0 an Euler step of the flow, for h -> infinity a Newton step.
    """

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """First order in h."""
        del terms
        return 1

    def init(self, terms: Any, t0: Any, t1: Any, y0: Iterate, args: Problem) -> None:
        """Nothing is carried from step to step but the iterate."""
        del terms, t0, t1, y0, args

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Iterate,
        args: Problem,
        solver_state: None,
        made_jump: Any,
    ):
        """One step, and how well its linear model predicted F(Y1)."""
        del solver_state, made_jump
        h = t1 - t0
        step, determinant_is_positive = args.damped_newton_step(y0.state, y0.velocity, 1 / h)
        state = y0.state + step
        velocity = args.map(state) - state
        # The step solves step/h = F(Y0) + (DA - I) step, so step/h is the linear model's F(Y1).
        # h/(1 + h) is the inverse of (1/h + 1) I: what the miss is worth in activities.
        missed = max_norm(velocity - step / h) * (h / (1 + h))
        report = StepReport(
            error=missed, across_pole=(~determinant_is_positive).astype(missed.dtype)
        )
        # |step|/|F| estimates |M^-1| along the residual, 1/rate next to a fold; times |step|, it
        # is the factor by which a Newton step after this one shrinks the error.
        tiny = jnp.finfo(state.dtype).tiny
        amplified = max_norm(step) ** 2 / jnp.maximum(max_norm(y0.velocity), tiny)
        y1 = Iterate(state=state, velocity=velocity, step_amplified=amplified)
        return y1, report, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Iterate, args: Problem) -> Iterate:
        """The vector field."""
        return terms.vf(t0, y0, args)


class GrowWherePredictable(diffrax.AbstractStepSizeController):
    """Let h grow where the linear model holds; cut it, and retry, where it fails.

    h is multiplied by 0.8 (error_tolerance/error)^(1/2), within [0.1, growth]: the error of a
    linear model is quadratic in the step. A step is rejected when its error is above
    `reject_above`, is not finite, or the step leapt across a pole.
    """

    error_tolerance: float
    reject_above: float
    growth: float

    def wrap(self, direction: Any) -> "GrowWherePredictable":
        """Nothing depends on the direction of time."""
        del direction
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        """The first step is `dt0`; there is no state."""
        del terms, t1, y0, args, func, error_order
        return t0 + dt0, None

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        """Accept or reject, and choose the next h."""
        del y0, y1_candidate, args, error_order, controller_state
        assert isinstance(y_error, StepReport)
        across_pole = y_error.across_pole > 0
        keep: Bool[Array, ""] = (y_error.error <= self.reject_above) & ~across_pole
        # diffrax has turned NaN into inf here, so the factor of a broken step is the smallest.
        factor = 0.8 * jnp.sqrt(self.error_tolerance / y_error.error)
        factor = jnp.clip(factor, 0.1, jnp.where(keep, self.growth, 0.5))
        factor = jnp.where(across_pole, jnp.minimum(factor, 0.25), factor)
        # A step size is a choice, not a function to differentiate: `Unrolled` would meet the
        # infinite slope of the square root wherever a step made no error at all.
        h = jax.lax.stop_gradient((t1 - t0) * factor)
        # The flow does not depend on time, so every step starts again at t0: added up, a few
        # Newton steps of h = 1e12 would swallow all digits of a small step after them.
        made_jump = False
        return keep, t0, t0 + h, made_jump, None, diffrax.RESULTS.successful


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoTransient:
    """Pseudo-transient continuation, the default solver: about 7 steps for well-scaled weights.

    It reaches the equilibrium of the flow where a fixed-step method is unstable, and at Newton's
    quadratic rate.

    Attributes:
        first_step: h of the first step, in units of the layer's time constant.
        error_tolerance: the size of linearisation error, in activities, that h aims for. Smaller
            follows the flow more closely, in more steps.
        reject_above: a step with a larger error than this is taken back.
        growth: largest factor between two steps' h.
        max_steps: rejected steps included.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    first_step: float = 0.5
    error_tolerance: float = 0.05
    reject_above: float = 0.2
    growth: float = 100.0
    max_steps: int = 100
    tolerance: float | None = None

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))
        if self.growth <= 1:
            raise ValueError(f"growth must be more than 1, got {self.growth}")
        if self.reject_above < self.error_tolerance:
            raise ValueError(
                f"reject_above must be at least error_tolerance, got {self.reject_above} < "
                f"{self.error_tolerance}"
            )

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Iterate from y0 until the residual is below the tolerance, and Newton's method is done.

        A residual r leaves an error of up to r/rate in Y and r/rate^2 in the gradient: next to a
        fold, where the rate is small, the tolerance alone is not enough for ten digits. So the
        last step must also have been so short that, at Newton's quadratic rate, the error that it
        leaves is at rounding.
        """
        tolerance = tolerance_of(self, y0.dtype)
        eps = float(jnp.finfo(y0.dtype).eps)
        within_reach = max(tolerance, eps**0.5 / 2)

        def at_rest(t: Any, y: Iterate, args: Problem, **kwargs: Any) -> Bool[Array, ""]:
            del t, args, kwargs
            residual = max_norm(y.velocity)
            done = (y.step_amplified <= within_reach) | (residual <= 2 * eps)
            # Nothing after a NaN can be finite.
            return ((residual <= tolerance) & done) | jnp.isnan(residual)

        iterate, num_steps = integrate(
            problem,
            Iterate(
                state=y0,
                velocity=problem.map(y0) - y0,
                step_amplified=jnp.full((), jnp.inf, y0.dtype),
            ),
            vector_field=flow,
            solver=LinearlyImplicitEuler(),
            controller=GrowWherePredictable(
                error_tolerance=self.error_tolerance,
                reject_above=self.reject_above,
                growth=self.growth,
            ),
            first_step=self.first_step,
            max_steps=self.max_steps,
            adjoint=adjoint,
            at_rest=at_rest,
        )
        return Solved(state=iterate.state, num_steps=num_steps)
