"""A linear solve and a linear map that JAX takes forward, back, and each through the other.

A `jax.custom_vjp` has no forward mode. What JAX shall differentiate in both is written as a tangent
that is linear in what is given: it transposes that for reverse mode.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from irnn_jax.linearisation import Linearisation, State

Solve = Callable[[State, bool], State]


def solve_both_ways(linear: Linearisation, rhs: State, solve: Solve) -> State:
    """(I - J)^-1 rhs, whose transpose and derivatives are those of the system.

    Args:
        linear: J.
        rhs: like a state.
        solve: (rhs, transposed) -> (I - J)^-1 rhs, or (I - J^T)^-1 rhs. Nothing differentiates it,
            so that it may contain anything.
    """
    product = linear.product(False)
    return jax.lax.custom_linear_solve(
        lambda v: v - product(v),
        rhs,
        lambda _, rhs: solve(rhs, False),
        lambda _, rhs: solve(rhs, True),
    )


def transposed(pull: Callable[[State], Any], like: State, tangents: Any) -> State:
    """J v, from a linear pull of J^T w, where v is like what it returns.

    By the vector that J^T is pulled back along, and not by the forward mode of what J belongs to:
    a cell with a `jax.custom_vjp` has none, and each is the other's transpose to the last mask.
    """

    def numbers(tree: Any) -> list[Any]:
        # Integers and keys have none.
        leaves = jax.tree.leaves(tree)
        return [leaf for leaf in leaves if leaf.dtype != jax.dtypes.float0]

    _, push = jax.vjp(lambda w: numbers(pull(w)), jnp.zeros_like(like))
    return push(numbers(tangents))[0]
