"""Pseudo-transient continuation: follow the flow while it matters, end as Newton's method.

A diffrax solver (`Rodas3`) and a step size controller (`FollowThenNewton`), run by
`diffrax.diffeqsolve`. After Kelley and Keyes, "Convergence analysis of pseudo-transient
continuation", SIAM J. Numer. Anal. 35 (1998), with an error-controlled method of third order in
place of their linearly implicit Euler steps.
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

NEWTON_FROM = 32.0  # in units of the layer's time constant


class StepReport(NamedTuple):
    """What the step tells the controller, in diffrax's place for an error estimate.

    Attributes:
        error: of the embedded method of second order, in units of the activities.
        ahead: how far the equilibrium still is, as far as the last step can tell.
        ratio: max|F(Y1)| / max|F(Y0)|.
        across_pole: the step leapt over a pole of ((2/h + 1) I - D A)^-1, so its direction along
            some unstable mode is reversed.
    """

    error: Float[Array, ""]
    ahead: Float[Array, ""]
    ratio: Float[Array, ""]
    across_pole: Float[Array, ""]


class Iterate(NamedTuple):
    """What diffrax integrates: the activities, and what else is known where they are.

    Attributes:
        state: Y, (n,).
        velocity: F(Y) = f(A Y + b) - Y, (n,), so that it is evaluated once a step and not again
            by the event.
        slope: what the linearisation at Y needs, evaluated along with the velocity.
        residual: max|velocity|, ().
        remaining: the error that the step which led here left in Y, in units of 1/rate, ().
        time: for how long the flow was followed to here, in units of the time constant, ().
    """

    state: State
    velocity: State
    slope: Array
    residual: Float[Array, ""]
    remaining: Float[Array, ""]
    time: Float[Array, ""]


def iterate(
    problem: Problem, state: State, *, remaining: Float[Array, ""], time: Float[Array, ""]
) -> Iterate:
    """An iterate at `state`."""
    value, slope = problem.map_and_slope(state)
    velocity = value - state
    return Iterate(
        state=state,
        velocity=velocity,
        slope=slope,
        residual=max_norm(velocity),
        remaining=remaining,
        time=time,
    )


def flow(t: Any, y: Iterate, problem: Problem) -> Iterate:
    """The vector field dY/dt = F(Y); what is carried along has no dynamics of its own."""
    del t
    return jax.tree.map(jnp.zeros_like, y)._replace(state=problem.map(y.state) - y.state)


class Rodas3(diffrax.AbstractSolver):
    """The Rosenbrock method RODAS3 of third order, L-stable and stiffly accurate.

    Four solves with one matrix M = (2/h + 1) I - D A, and three evaluations of F:

        M u1 = F(Y0)                        M u2 = F(Y0) + 4 u1/h
        M u3 = F(Y0 + 2 u1) + (u1 - u2)/h   M u4 = F(Y0 + 2 u1 + u3) + (u1 - u2 - 8/3 u3)/h
        Y1 = Y0 + 2 u1 + u3 + u4,           and u4 is the error of the method without it.

    It follows the flow to third order. From h = `NEWTON_FROM` on there is no motion left to
    follow, only an equilibrium to reach, and the three evaluations make three Newton steps with
    one Jacobian, u1, u3 and u4, without the terms in 1/h. RODAS3's own limit is Newton's method
    too, but it looks at F twice a Newton step away: next to a fold, on the far side.

    After Sandu, Verwer, Blom, Spee, Carmichael and Potra, "Benchmarking stiff ODE solvers for
    atmospheric chemistry problems II", Atmospheric Environment 31 (1997), in the variables of
    Hairer and Wanner.
    """

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """Third order in h."""
        del terms
        return 3

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
        """One step and its report."""
        del terms, solver_state, made_jump
        rate = 1 / (t1 - t0)
        system = args.damped_newton(y0.state, y0.slope, 2 * rate)

        def velocity(state: State) -> State:
            return args.map(state) - state

        newton = rate * NEWTON_FROM < 1
        flows = jnp.where(newton, 0, rate)
        u1 = system.solve(y0.velocity)
        u2 = system.solve(y0.velocity + 4 * rate * u1)
        state = y0.state + jnp.where(newton, 1, 2) * u1
        u3 = system.solve(velocity(state) + flows * (u1 - u2))
        state = state + u3
        u4 = system.solve(velocity(state) + flows * (u1 - u2 - 8 / 3 * u3))
        state = state + u4

        step, error = max_norm(state - y0.state), max_norm(u4)
        # u4 corrects with a matrix that is wrong by the curvature times the step, by 1/h, and by
        # what its own solution leaves: times |M^-1|, that part of u4 is still there.
        remaining = error * (step + rate + args.linear_accuracy(state.dtype))
        time = y0.time + jnp.where(newton, 0, t1 - t0)
        y1 = iterate(args, state, remaining=remaining, time=time)
        # |step|/|F| estimates |M^-1| along the residual: 1/rate of decay next to a fold.
        tiny = jnp.finfo(state.dtype).tiny
        before = jnp.maximum(y0.residual, tiny)
        report = StepReport(
            error=error,
            ahead=jnp.maximum(1, step / before) * y1.residual,
            ratio=y1.residual / before,
            across_pole=(~system.determinant_is_positive()).astype(error.dtype),
        )
        return y1, report, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Iterate, args: Problem) -> Iterate:
        """The vector field."""
        return terms.vf(t0, y0, args)


class FollowThenNewton(diffrax.AbstractStepSizeController):
    """Choose h by the error of the step; let it go where the equilibrium is near.

    On the way h is multiplied by 0.8 (error_tolerance/error)^(1/3), within [0.1, 1e6]. A step is
    rejected when its error is above `reject_above`, is not finite, or the step leapt across a pole.

    Where the equilibrium is less than `newton_within` ahead the linear model should hold all the
    way, and h is raised by another (newton_within/ahead)^2: the steps become Newton's. Such a
    step must lower the residual too. If it is rejected, h goes back to the last one by which the
    flow was followed.

    The first step is the controller's own, and not diffrax's dt0, whose sign diffrax checks while
    the program runs, by a callback: JAX's compilation cache keeps no program with a callback.
    """

    error_tolerance: float
    reject_above: float
    newton_within: float
    first_step: float

    def wrap(self, direction: Any) -> "FollowThenNewton":
        """Nothing depends on the direction of time."""
        del direction
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        """The state is the h that errors alone would choose."""
        del terms, t1, y0, dt0, args, func, error_order
        h = jnp.asarray(self.first_step, jnp.result_type(t0))
        return t0 + h, h

    def adapt_step_size(
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        """Accept or reject, and choose the next h."""
        del y0, y1_candidate, args, error_order
        assert isinstance(y_error, StepReport)
        h, followed = t1 - t0, controller_state
        across_pole = y_error.across_pole > 0
        newton = h > 2 * followed
        keep: Bool[Array, ""] = (
            (y_error.error <= self.reject_above) & ~across_pole & ~(newton & (y_error.ratio > 1))
        )
        # diffrax has turned NaN into inf here, so the factor of a broken step is the smallest.
        factor = 0.8 * jnp.cbrt(self.error_tolerance / y_error.error)
        factor = jnp.clip(factor, 0.1, jnp.where(keep, 1e6, 0.5))
        factor = jnp.where(across_pole, jnp.minimum(factor, 0.25), factor)
        # A Newton step says nothing about how well the flow can be followed.
        followed = jnp.where(newton, followed, h * factor)
        near = jnp.maximum(1, (self.newton_within / y_error.ahead) ** 2)
        h = jnp.where(keep, jnp.where(newton, h, followed) * near, followed)
        # Larger steps are Newton's to rounding.
        longest = 1 / float(jnp.finfo(h.dtype).eps)
        # A step size is a choice, not a function to differentiate: `Unrolled` would meet the
        # infinite slope of the root wherever a step made no error at all.
        h, followed = jax.lax.stop_gradient(
            (jnp.minimum(h, longest), jnp.minimum(followed, longest))
        )
        # The flow does not depend on time, so every step starts again at t0: added up, a few
        # Newton steps of h = 1e12 would swallow all digits of a small step after them.
        made_jump = False
        return keep, t0, t0 + h, made_jump, followed, diffrax.RESULTS.successful


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoTransient:
    """Pseudo-transient continuation, the default solver: about 5 steps for well-scaled weights.

    It follows the flow with error control, so that it reaches the flow's own equilibrium, also
    where a fixed-step method is unstable, and ends at the rate of three Newton steps in one.

    Attributes:
        first_step: h of the first step, in units of the layer's time constant.
        error_tolerance: the error of a step, in activities, that h aims for. Smaller follows the
            flow more closely, in more steps.
        reject_above: a step with a larger error than this is taken back.
        newton_within: the distance to the equilibrium, in activities, from which on h grows
            towards Newton's method.
        max_steps: rejected steps included.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    first_step: float = 1.0
    error_tolerance: float = 0.03
    reject_above: float = 0.15
    newton_within: float = 0.1
    max_steps: int = 400
    tolerance: float | None = None

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))
        if self.reject_above < self.error_tolerance:
            raise ValueError(
                f"reject_above must be at least error_tolerance, got {self.reject_above} < "
                f"{self.error_tolerance}"
            )

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Iterate from y0 until the residual is below the tolerance, and Newton's method is done.

        A residual r leaves an error of up to r/rate in Y and r/rate^2 in the gradient: next to a
        fold, where the rate is small, the tolerance alone is not enough for ten digits. So the
        last step must also have left no more than the rounding of F does.
        """
        tolerance = tolerance_of(self, y0.dtype)
        eps = float(jnp.finfo(y0.dtype).eps)

        def at_rest(t: Any, y: Iterate, args: Problem, **kwargs: Any) -> Bool[Array, ""]:
            del t, args, kwargs
            done = (y.remaining <= eps / 4) | (y.residual <= 2 * eps)
            # Nothing after a NaN can be finite.
            return ((y.residual <= tolerance) & done) | jnp.isnan(y.residual)

        last, num_steps, _ = integrate(
            problem,
            iterate(
                problem,
                y0,
                remaining=jnp.full((), jnp.inf, y0.dtype),
                time=jnp.zeros((), y0.dtype),
            ),
            vector_field=flow,
            solver=Rodas3(),
            controller=FollowThenNewton(
                error_tolerance=self.error_tolerance,
                reject_above=self.reject_above,
                newton_within=self.newton_within,
                first_step=self.first_step,
            ),
            first_step=None,
            max_steps=self.max_steps,
            adjoint=adjoint,
            at_rest=at_rest,
        )
        return Solved(state=last.state, num_steps=num_steps, time=last.time)
