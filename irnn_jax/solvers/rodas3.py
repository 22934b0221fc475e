"""One step along the flow, for a whole batch: by the Rosenbrock method RODAS3, or by Newton's."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.linearisation import DampedSystem
from irnn_jax.problem import Problem, State
from irnn_jax.xla.precision import in_precision
from irnn_jax.xla.varying import vary, varying_axes

NEWTON_FROM = 32.0  # in units of the layer's time constant


class StepReport(NamedTuple):
    """What a step tells of itself, sample by sample, in float32.

    Attributes:
        error: of the embedded method of second order, in units of the activities.
        ahead: how far the equilibrium still is, as far as the last step can tell, likewise.
        ratio: max|F(Y1)| / max|F(Y0)|.
        across_pole: the step leapt over a pole of ((2/h + 1) I - D A)^-1, so its direction along
            some unstable mode is reversed.
    """

    error: Float[Array, "*numbers"]
    ahead: Float[Array, "*numbers"]
    ratio: Float[Array, "*numbers"]
    across_pole: Bool[Array, "*numbers"]


class Iterate(NamedTuple):
    """What diffrax integrates: the activities of a batch, and what else is known where they are.

    `remaining` and `time` decide about steps, and are in float32 whatever the state is in.

    Attributes:
        state: Y, like a state.
        velocity: F(Y) = g(Y) - Y, like a state, so that it is evaluated once a step and not
            again by the event.
        slope: what the linearisation at Y needs, evaluated along with the velocity.
        residual: max|velocity|, one a sample.
        remaining: the error that the step which led here left in Y, in units of 1/rate.
        time: for how long the flow was followed to here, in units of the time constant.
    """

    state: State
    velocity: State
    slope: Array
    residual: Float[Array, "*numbers"]
    remaining: Float[Array, "*numbers"]
    time: Float[Array, "*numbers"]


def iterate(
    problem: Problem,
    state: State,
    *,
    remaining: Float[Array, "*numbers"],
    time: Float[Array, "*numbers"],
) -> Iterate:
    """An iterate at `state`."""
    value, slope = problem.value_and_slope(state)
    velocity = value - state
    return Iterate(state, velocity, slope, problem.layout.size(velocity), remaining, time)


def rodas3(
    problem: Problem, y0: Iterate, step_size: Float[Array, "*numbers"]
) -> tuple[Iterate, StepReport]:
    """One step of the Rosenbrock method RODAS3 of third order, L-stable and stiffly accurate.

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
    rate = 1 / step_size
    system = problem.damped(y0.state, y0.slope, 2 * rate)

    def moved(*by: State) -> State:
        # One after the other: added up in float32, the last ones would be lost to rounding.
        return sum(in_precision(by, y0.state.dtype), y0.state)

    def velocity(*by: State) -> State:
        state = moved(*by)
        return (problem.value(state) - state).astype(jnp.float32)

    newton = rate * NEWTON_FROM < 1
    flows, first = jnp.where(newton, 0, rate), jnp.where(newton, 1, 2).astype(jnp.float32)
    here = y0.velocity.astype(jnp.float32)
    u1, _, u3, u4 = _solved(
        system,
        varying_axes(y0),
        (
            lambda u: here,
            lambda u: here + 4 * rate * u[0],
            lambda u: velocity(first * u[0]) + flows * (u[0] - u[1]),
            lambda u: velocity(first * u[0], u[2]) + flows * (u[0] - u[1] - 8 / 3 * u[2]),
        ),
    )
    state = moved(first * u1, u3, u4)
    step, error = problem.layout.size(first * u1 + u3 + u4), problem.layout.size(u4)
    # u4 corrects with a matrix that is wrong by the curvature times the step, by 1/h, and by
    # what its own solution leaves: times |M^-1|, that part of u4 is still there.
    remaining = error * (step + rate + problem.linear_accuracy(state.dtype))
    time = y0.time + jnp.where(newton, 0, step_size)
    y1 = iterate(problem, state, remaining=remaining, time=time)
    # |step|/|F| estimates |M^-1| along the residual: 1/rate of decay next to a fold.
    before, after = y0.residual.astype(jnp.float32), y1.residual.astype(jnp.float32)
    before = jnp.maximum(before, jnp.finfo(jnp.float32).tiny)
    report = StepReport(
        error=error,
        # And slow neurons have as far to go as fast ones, at a smaller speed.
        ahead=jnp.maximum(1, step / before) * after / jnp.asarray(problem.slowest, after.dtype),
        ratio=after / before,
        across_pole=~system.determinant_is_positive(),
    )
    return y1, report


def _solved(
    system: DampedSystem, axes: tuple[str, ...], rhs: Sequence[Callable[[Any], State]]
) -> list[State]:
    """The u with M u[i] = rhs[i](u), in which only the ones before u[i] are used.

    `axes` are those of a mesh over which they differ.
    """
    if not system.is_iterative:
        u: list[State] = []
        for of in rhs:
            u.append(system.solve(of(u)))
        return u

    # A solve is a program of its own: one for all of them.
    def solve(number: Array, u: Array) -> Array:
        return u.at[number].set(system.solve(jax.lax.switch(number, rhs, u)))

    like = jax.eval_shape(rhs[0], ())
    none = vary(jnp.zeros((len(rhs), *like.shape), like.dtype), axes)
    return list(jax.lax.fori_loop(0, len(rhs), solve, none))
