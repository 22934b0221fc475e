"""A step along the flow by an explicit exponential method, with an error that is controlled."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.problem import State
from irnn_jax.solvers.growth import Growth


class Motion(NamedTuple):
    """Where a batch stands.

    Attributes:
        state: Y, like a state.
        velocity: F(Y) = g(Y) - Y, like a state.
        growth: what is known of the way.
        step_size: h of the next step, one a sample.
        settling: whether the equilibrium is near, one a sample.
        time: for how long the flow was followed, one a sample.
        num_steps: one a sample.
    """

    state: State
    velocity: State
    growth: Growth
    step_size: Float[Array, "*numbers"]
    settling: Bool[Array, "*numbers"]
    time: Float[Array, "*numbers"]
    num_steps: Float[Array, "*numbers"]


def flow_step(
    function: Callable[[State], State],
    size: Callable[[State], Array],
    motion: Motion,
    going: Bool[Array, "*numbers"],
    *,
    error_tolerance: float,
    reject_above: float,
    near: float,
) -> Motion:
    """One step along dY/dt = function(Y) - Y of the samples that are `going`; see `Exponential`.

    Args:
        function: the map Y -> g(Y).
        size: max|v| of each sample, in the shape of what there is one of for each sample.
        motion: where the batch stands.
        going: who takes the step.
        error_tolerance: the error of a step that its size aims for, relative to the state.
        reject_above: a step with a larger error, likewise, is taken back.
        near: the distance to the equilibrium, likewise, within which a sample settles.
    """
    h = motion.step_size
    decay = jnp.exp(-h)
    first = motion.state + (1 - decay) * motion.velocity
    weight, there = jnp.expm1(-h) / h + 1, function(first)
    state = first + weight * (there - (motion.state + motion.velocity))
    value = function(state)
    velocity = value - state

    # What the step would change if its end were taken at the state that it leads to.
    growth = motion.growth.seen(size(value))
    made, before, after = size(weight * (value - there)), size(motion.velocity), size(velocity)
    error = made / growth.scale
    error = jnp.where(jnp.isnan(error), jnp.inf, error)
    kept = error <= reject_above
    factor = 0.8 * jnp.exp(jnp.log(error_tolerance / error) / 3)
    factor = jnp.clip(factor, 0.1, jnp.where(kept, 5.0, 0.5))
    # Steps that shrink by a ratio q go on for q/(1 - q) times the last one.
    ratio = after / before
    ahead = size(state - motion.state) * ratio / (1 - ratio)
    settling = kept & (ratio < 0.7) & (ahead <= near * growth.scale)
    h, kept, settling = jax.lax.stop_gradient((h * factor, kept, settling))
    taken = going & kept
    return Motion(
        state=jnp.where(taken, state, motion.state),
        velocity=jnp.where(taken, velocity, motion.velocity),
        growth=growth.after(made, after, taken),
        step_size=jnp.where(going, h, motion.step_size),
        settling=motion.settling | (going & settling),
        time=motion.time + jnp.where(taken, motion.step_size, 0),
        num_steps=motion.num_steps + going.astype(state.dtype),
    )
