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
from irnn_jax.solvers.settle import FACTORISE_UP_TO

# A step of Newton's method costs as much as five to ten evaluations of the map.
MAX_EVALUATIONS = 8


class Approach(NamedTuple):
    """Where a batch is, and which samples go on, (*batch)."""

    state: State
    going: Bool[Array, "*batch"]


def approach(
    problem: Problem,
    y0: State,
    tolerance: float | Array,
    adjoint: diffrax.AbstractAdjoint,
) -> tuple[State, Bool[Array, "*batch"]]:
    """Y <- f(A Y + b) from y0, for the samples whose map contracts, and which of them are there.

    With few neurons only while the steps are long, since one of Newton's then costs less than what
    is left: a step of `rodas3` that is three of Newton's leaves the fourth power of the error, so
    that eps^(1/4) is near enough for it. With more, to the end. The others stay where they are.
    """
    nowhere = jnp.zeros(y0.shape[1:], bool)
    if problem.contracts is None:
        return y0, nowhere
    plain = isinstance(adjoint, diffrax.ForwardMode)
    large = y0.ndim == 2 and len(y0) > FACTORISE_UP_TO
    if plain and large and isinstance(problem, DenseProblem):
        equation = Equation.of(problem)
        chord = unknown_chord(len(y0))
        refined, _ = settle_refined(equation, y0, problem.contracts, tolerance, chord)
        return jnp.where(refined.done, refined.y, y0), refined.done
    near = 5 * float(jnp.finfo(y0.dtype).eps) ** 0.25
    # Far from float32's rounding, in any dtype.
    rough = plain and isinstance(problem, DenseProblem)
    coarse, start = in_precision((problem, y0), jnp.float32) if rough else (problem, y0)

    def advance(number: Array, carry: Approach) -> Approach:
        del number
        state = jnp.where(carry.going, coarse.map(carry.state), carry.state)
        return Approach(state, carry.going & (max_norm(state - carry.state) > near))

    going = Approach(start, problem.contracts)
    last = repeat(advance, going, lambda carry: carry.going, MAX_EVALUATIONS, adjoint)
    return jnp.where(problem.contracts, last.state.astype(y0.dtype), y0), nowhere
