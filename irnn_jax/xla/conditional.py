"""Work that is only done where it is needed, also under `vmap`."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from irnn_jax.xla.varying import axes_of_a_call, vary

T = TypeVar("T")


def run_if(needed: jax.Array, work: Callable[..., T], state: T, *given: Any) -> T:
    """`work(state, *given)` where `needed`, else `state`; not evaluated where nobody needs it.

    Under `vmap` a `lax.cond` becomes a selection between two branches that are both evaluated. A
    loop is entered only while one sample of the batch is left. No reverse mode goes through it.

    What does not change in a loop XLA computes before it, entered or not: whatever is costly must
    come from `state` or `given`, and not from a closure.
    """
    axes = axes_of_a_call(work, (state, *given), needed)

    def body(carry: tuple[jax.Array, T]) -> tuple[jax.Array, T]:
        needed, state = carry
        # The flag changes in the loop, and with it, as far as XLA can tell, what is given.
        needed, here = jax.lax.optimization_barrier((needed, given))
        return vary((jnp.zeros_like(needed), work(state, *here)), axes)

    return jax.lax.while_loop(lambda carry: jnp.any(carry[0]), body, vary((needed, state), axes))[1]
