"""The first part of the way, where the map is known to contract: by the map itself."""

from typing import NamedTuple

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from irnn_jax.max_norm import max_norm
from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import repeat

# A step of Newton's method costs as much as five to ten evaluations of the map.
MAX_EVALUATIONS = 8


class Approach(NamedTuple):
    """Where a batch is, and which samples go on, (*batch)."""

    state: State
    going: Bool[Array, "*batch"]


def approach(problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> State:
    """Y <- f(A Y + b) from y0 while the steps are long, for the samples whose map contracts.

    A step of `rodas3` that is three of Newton's leaves the fourth power of the error, so that
    eps^(1/4) is near enough for the last one. The others stay where they are.
    """
    if problem.contracts is None:
        return y0
    near = 5 * float(jnp.finfo(y0.dtype).eps) ** 0.25

    def advance(number: Array, carry: Approach) -> Approach:
        del number
        state = jnp.where(carry.going, problem.map(carry.state), carry.state)
        return Approach(state, carry.going & (max_norm(state - carry.state) > near))

    start = Approach(y0, problem.contracts)
    return repeat(advance, start, lambda carry: carry.going, MAX_EVALUATIONS, adjoint).state
