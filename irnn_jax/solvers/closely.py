"""The flow itself, closely: for samples of which a faster solver cannot be sure.

By Dormand and Prince's method of fifth order, explicit and with its own error control, in the
state's own precision. A disturbance is followed beside the state, to know what its errors become.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from irnn_jax.linalg.spectrum import some_vector
from irnn_jax.problem import Problem, State
from irnn_jax.status import CYCLE_SPEED
from irnn_jax.xla.loops import Loop

Numbers = Float[Array, "*numbers"]
Flags = Bool[Array, "*numbers"]

# Rejected ones included; and for how many time constants what goes in circles is followed.
MAX_STEPS, LONGEST_CYCLE = 4000, 400.0
# The stages of Dormand and Prince, "A family of embedded Runge-Kutta formulae", J. Comput. Appl.
# Math. 6 (1980); the last one is at the end of the step. And their error.
STAGES = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [1 / 5, 0, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
    ]
)
ERROR = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])
# The products that follow a disturbance through a step, and the longest for which they do.
PRODUCTS, LONGEST = 5, 2.5
# A velocity that is nothing but rounding, in roundings of the state.
ROUNDINGS = 64
TINY = float(jnp.finfo(jnp.float32).tiny)


class Way(NamedTuple):
    """Where a batch stands.

    Attributes:
        state: Y, like a state.
        velocity: F(Y), like a state.
        disturbance: a solution of d v/dt = (J - I) v, of size one, like a state; zero at first.
        growth: log of how much larger a disturbance is than where it was made.
        most: the largest growth on the way.
        scale: the largest max|g(Y)|, and max|Y(0)|.
        step_size: h of the next step, one a sample.
        settling: whether an equilibrium may be near, one a sample.
        time: for how long the flow was followed, one a sample.
        num_steps: one a sample.
    """

    state: State
    velocity: State
    disturbance: State
    growth: Numbers
    most: Numbers
    scale: Numbers
    step_size: Numbers
    settling: Flags
    time: Numbers
    num_steps: Numbers


def begin(y0: State, size: Numbers) -> Way:
    """At y0, of this size, where nothing is known yet."""
    zeros = jnp.zeros_like(size)
    return Way(
        state=y0,
        velocity=jnp.zeros_like(y0),
        disturbance=jnp.zeros_like(y0),
        growth=zeros,
        most=zeros,
        scale=jnp.maximum(size, TINY),
        step_size=jnp.full_like(zeros, 0.1),
        settling=jnp.zeros(zeros.shape, bool),
        time=zeros,
        num_steps=zeros,
    )


def follow(
    way: Way, problem: Problem, going: Flags, within: Numbers, precision: Numbers, loop: Loop
) -> Way:
    """On along the flow, of those who are `going`, until an equilibrium may be near.

    Args:
        way: where they are.
        problem: the batch.
        going: who goes on.
        within: how near, relative to the state.
        precision: the error of a step, likewise.
        loop: repeats the steps.
    """

    def moving(way: Way) -> Array:
        # A velocity of NaN compares false, and ends the sample.
        speed = problem.layout.size(way.velocity)
        slow = (speed >= 0) & (speed <= CYCLE_SPEED * problem.slowest * way.scale)
        alive = slow | ((speed >= 0) & (way.time * problem.slowest < LONGEST_CYCLE))
        return going & ~way.settling & alive & (way.num_steps < MAX_STEPS)

    def advance(number: Array, way: Way) -> Way:
        del number
        return _step(problem, way, moving(way), precision, within)

    value, size = problem.value(way.state), problem.layout.size
    some, before = some_vector(way.state), size(way.disturbance)
    start = way._replace(
        velocity=value - way.state,
        disturbance=jnp.where(before > 0, way.disturbance, some / size(some)),
        scale=_larger(way.scale, size(value)),
        settling=way.settling & ~going,
    )
    return loop.repeat(advance, start, moving, MAX_STEPS, as_one=problem.is_arithmetic)


def _larger(scale: Numbers, value: Numbers) -> Numbers:
    # NaN compares false.
    return jnp.where(value > scale, value, scale)


def _step(problem: Problem, way: Way, going: Flags, precision: Numbers, within: Numbers) -> Way:
    size, h, dtype = problem.layout.size, way.step_size, way.state.dtype
    rows = jnp.asarray(STAGES, dtype)

    def moved(weights: Array, slopes: Array) -> State:
        # Not a product of matrices, which some devices round to fewer digits.
        if dtype == jnp.float64:
            return h * jnp.sum(weights[:, None, None] * slopes, axis=0)
        # Of sums in float32 XLA may make what it cannot have inside of one function.
        terms = [weights[i] * slopes[i] for i in range(len(STAGES))]
        return h * sum(terms[1:], terms[0])

    # One stage in the program, and not six.
    def stage(i: Array, slopes: Array) -> Array:
        state = way.state + moved(rows[i], slopes)
        return jax.lax.dynamic_update_index_in_dim(slopes, problem.value(state) - state, i, 0)

    none = jnp.zeros((len(STAGES), *way.state.shape), dtype)
    slopes = jax.lax.fori_loop(1, len(STAGES), stage, none.at[0].set(way.velocity))
    state, velocity = way.state + moved(rows[-1], slopes), slopes[-1]
    scale = _larger(way.scale, size(state + velocity))
    error = size(moved(jnp.asarray(ERROR, dtype), slopes)) / (precision * scale)
    error = jnp.where(jnp.isnan(error), jnp.inf, error)
    disturbance, grown, speed = _carried(problem, way.state, way.disturbance, h)
    kept = (error <= 1) & (h * speed <= LONGEST)
    factor = jnp.clip(0.9 * jnp.exp(jnp.log(1 / error) / 5), 0.2, jnp.where(kept, 5.0, 0.5))
    before, after = size(way.velocity), size(velocity)
    # What shrinks by a ratio in h goes on for h/(1 - ratio) times the velocity.
    ratio = after / before
    near = (ratio < 1) & (after * h <= within * scale * (1 - ratio))
    taken = going & kept

    # One that has shrunk is as small as one that is made here.
    growth = jnp.maximum(way.growth + grown, 0)
    then = way._replace(
        state=state,
        velocity=velocity,
        disturbance=disturbance,
        growth=growth,
        most=jnp.maximum(way.most, growth),
        scale=scale,
        settling=near | (after <= ROUNDINGS * float(jnp.finfo(dtype).eps) * scale),
        time=way.time + h,
    )
    then = jax.tree.map(lambda new, old: jnp.where(taken, new, old), then, way)
    return then._replace(
        step_size=jnp.where(going, jnp.minimum(h * factor, LONGEST / 2 / speed), h),
        num_steps=way.num_steps + going.astype(dtype),
    )


def _carried(
    problem: Problem, state: State, v: State, h: Numbers
) -> tuple[State, Numbers, Numbers]:
    """exp(h (J - I)) v by Taylor's series, and the log of its size, of a v of size one.

    It comes back with size one too; the third is |(J - I) v|.
    """
    product, size = problem.linearise(state).product(False), problem.layout.size

    def term(i: Array, at: tuple[State, Numbers]) -> tuple[State, Numbers]:
        sum_, speed = at
        change = product(sum_) - sum_
        speed = jnp.where(i == 0, size(change), speed)
        return v + h / (PRODUCTS - i).astype(v.dtype) * change, speed

    carried, speed = jax.lax.fori_loop(0, PRODUCTS, term, (v, h))
    length = size(carried)
    ok = length > 0
    log = jnp.where(ok, jnp.log(length), 0)
    return jnp.where(ok, carried / length, v), log, jnp.maximum(speed, TINY)
