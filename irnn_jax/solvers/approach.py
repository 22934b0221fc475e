"""The first part of the way, where the map is known to contract: by the map itself."""

from typing import NamedTuple

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from irnn_jax.max_norm import max_norm
from irnn_jax.precision import in_precision
from irnn_jax.problem import DenseProblem, Problem, State
from irnn_jax.solvers.base import repeat
from irnn_jax.solvers.chord import unknown_chord
from irnn_jax.solvers.equation import Equation
from irnn_jax.solvers.refine import settle_refined
from irnn_jax.solvers.rodas3 import Iterate, iterate
from irnn_jax.solvers.settle import FACTORISE_UP_TO

# A step of Newton's method costs as much as five to ten evaluations of the map. The last one is
# where it starts.
MAX_EVALUATIONS = 9


class Approach(NamedTuple):
    """Where a batch is, F and the slope there, and which samples go on, (*batch)."""

    state: State
    velocity: State
    slope: State
    going: Bool[Array, "*batch"]


def approach(
    problem: Problem,
    y0: State,
    tolerance: float | Array,
    adjoint: diffrax.AbstractAdjoint,
) -> Iterate:
    """Y <- f(A Y + b) from y0, for the samples whose map contracts; the others stay where they are.

    With few neurons only while the steps are long, since one of Newton's then costs less than what
    is left: a step of `rodas3` that is three of Newton's leaves the fourth power of the error, so
    that eps^(1/4) is near enough for it. With more, to the end: nothing remains then.
    """
    contracting, time = problem.contracts, jnp.zeros(y0.shape[1:], jnp.float32)
    far = jnp.full_like(time, jnp.inf)
    if contracting is None or not isinstance(problem, DenseProblem):
        return iterate(problem, y0, remaining=far, time=time)
    plain = isinstance(adjoint, diffrax.ForwardMode)
    if plain and y0.ndim == 2 and len(y0) > FACTORISE_UP_TO:
        chord = unknown_chord(len(y0))
        found, _ = settle_refined(Equation.of(problem), y0, contracting, tolerance, chord)
        remaining = jnp.where(found.done, 0, far)
        return iterate(problem, jnp.where(found.done, found.y, y0), remaining=remaining, time=time)

    near = 2 * float(jnp.finfo(y0.dtype).eps) ** 0.25
    # Far from float32's rounding, in any dtype; and all samples are evaluated once, in a loop: with
    # what enters it their layout is put together once, and not for each entry of a product.
    coarse, start = in_precision((problem, y0), jnp.float32) if plain else (problem, y0)

    def advance(number: Array, carry: Approach) -> Approach:
        value, slope = coarse.map_and_slope(carry.state)
        velocity = value - carry.state
        going = carry.going & (number + 1 < MAX_EVALUATIONS) & (max_norm(velocity) > near)
        going &= contracting
        return Approach(jnp.where(going, value, carry.state), velocity, slope, going)

    zeros = jnp.zeros_like(start)
    going = Approach(start, zeros, zeros, jnp.ones(time.shape, bool))
    last = repeat(advance, going, lambda carry: carry.going, MAX_EVALUATIONS, adjoint)
    state, velocity, slope = in_precision(last[:3], y0.dtype)
    # What is at rest in float32 need not be at rest.
    residual = jnp.maximum(max_norm(velocity), float(jnp.finfo(start.dtype).eps))
    return Iterate(state, velocity, slope, residual, far, time)
