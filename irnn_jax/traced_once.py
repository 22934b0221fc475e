"""A solve that a derivative rule and its forward rule call, traced for both of them at once.

Where the rule is differentiated, JAX traces its function, and then its forward rule in place of it.
`jax.jit` keeps the first trace for the second, if only their contexts are the same; and they are,
but for the mesh, which is none in the one and an empty one in the other.
"""

import functools
from collections.abc import Callable
from typing import TypeVar, cast

import jax

Solve = TypeVar("Solve", bound=Callable)


def traced_once(solve: Solve) -> Solve:
    """`solve(method, *arrays)`, with a `method` that can be hashed."""
    jitted = jax.jit(solve, static_argnums=0)

    @functools.wraps(solve)
    def once(*arguments):
        with jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh()):
            return jitted(*arguments)

    return cast(Solve, once)
