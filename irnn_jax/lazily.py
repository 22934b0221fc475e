"""Work that is only done where it is needed, also under `vmap`."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def at_most_once(needed: jax.Array, work: Callable[[T], T], state: T) -> T:
    """`work(state)` where `needed`, else `state`; not evaluated for a batch that needs it nowhere.

    Under `vmap` a `lax.cond` becomes a selection between two branches that are both evaluated. A
    loop is entered only while one sample of the batch is left. No reverse mode goes through it.
    """

    def body(carry: tuple[jax.Array, T]) -> tuple[jax.Array, T]:
        return jnp.zeros_like(carry[0]), work(carry[1])

    return jax.lax.while_loop(lambda carry: jnp.any(carry[0]), body, (needed, state))[1]
