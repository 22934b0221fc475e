"""The last part of the way, where an equilibrium is near: by evaluations of the map alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.iterations.acceleration import Acceleration
from irnn_jax.linalg.layout import Layout
from irnn_jax.xla.loops import Loop

State = Float[Array, "*state"]
Numbers = Float[Array, "*numbers"]
Flags = Bool[Array, "*numbers"]

# Plainly while each step leaves less than this of the change, and so often; then accelerated.
PLAIN_RATIO, PLAIN_STEPS = 0.6, 60


class Near(NamedTuple):
    """What iterations made of samples whose equilibrium is near.

    Attributes:
        state: where they ended.
        residual: max|F| there, of the samples that took part.
        num_steps: of each.
    """

    state: State
    residual: Numbers
    num_steps: Numbers


def merged(before: Near, after: Near, again: Flags) -> Near:
    """What was found, of the samples that went on."""
    return Near(
        state=jnp.where(again, after.state, before.state),
        residual=jnp.where(again, after.residual, before.residual),
        num_steps=before.num_steps + after.num_steps,
    )


def iterate_plainly(
    function: Callable[[State], State],
    y: State,
    going: Flags,
    tolerance: float | Numbers,
    layout: Layout,
    loop: Loop,
) -> tuple[Near, Flags]:
    """Y <- g(Y) for the samples that are `going`, while it is fast, and which of them are done.

    What is left of the way is a geometric series of the last changes; of a residual r there is an
    error of r/rate in Y and r/rate^2 in the gradient.
    """

    def advance(number: Array, at: tuple[State, Numbers, Numbers, Flags, Flags, Numbers]):
        y, before, residual, active, done, steps = at
        value = function(y)
        change = layout.size(value - y)
        ratio = jnp.where(number == 0, PLAIN_RATIO, change / before)
        rate = 1 - jnp.minimum(ratio, PLAIN_RATIO)
        left = change * ratio
        done = done | (active & (left <= tolerance * rate**2))
        residual = jnp.where(active, left, residual)
        # NaN compares false, and ends the sample.
        on = active & ~done & (ratio <= PLAIN_RATIO)
        steps = steps + active.astype(steps.dtype)
        return jnp.where(active, value, y), change, residual, on, done, steps

    zeros = jnp.zeros_like(layout.size(y))
    start = (y, zeros, zeros + jnp.inf, going, jnp.zeros(zeros.shape, bool), zeros)
    y, _, residual, _, done, steps = loop.repeat(advance, start, lambda at: at[3], PLAIN_STEPS)
    # The change was the residual before the last step, which left this ratio of it.
    return Near(y, jnp.where(done, residual, jnp.inf), steps), done


def accelerate(
    function: Callable[[State], State],
    y: State,
    going: Flags,
    tolerance: float | Numbers,
    layout: Layout,
    loop: Loop,
    *,
    acceleration: Acceleration = Acceleration(max_steps=100),
    polish_steps: int = 30,
) -> Near:
    """Anderson acceleration of Y <- g(Y) from Y, for the samples that are `going`, twice at most.

    A residual r leaves an error of up to r/rate in Y and r/rate^2 in the gradient. Where the rate
    is small, next to a fold, that takes a smaller residual, down to rounding: the second time.
    """

    def near(y: State) -> State:
        return jnp.where(going, function(y), y)

    smallest = 8 * float(jnp.finfo(y.dtype).eps) * layout.size(y)

    def again(number: Array, carry: tuple[Near, Array]) -> tuple[Near, Array]:
        at, enough = carry
        limit = jnp.where(number == 0, acceleration.max_steps, polish_steps).astype(y.dtype)
        end = acceleration(near, at.state, lambda y: enough, layout, loop, limit)
        residual = layout.size(end.velocity)
        better = (number == 0) | (residual < at.residual)
        slowness = jnp.maximum(1, end.slowness(layout, acceleration.mixing) / 4)
        enough = jnp.maximum(jnp.minimum(smallest, tolerance), tolerance / slowness**2)
        found = Near(
            state=jnp.where(better, end.state, at.state),
            residual=jnp.where(better, residual, at.residual),
            num_steps=at.num_steps + end.num_steps,
        )
        return found, enough.astype(y.dtype)

    zeros = jnp.zeros_like(layout.size(y))
    start = Near(y, jnp.full_like(zeros, jnp.inf), zeros), tolerance + zeros
    return loop.repeat(again, start, lambda carry: carry[0].residual > carry[1], 2)[0]
