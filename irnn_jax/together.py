"""A loop over a batch that ends for all at once, also for what `jax.vmap` adds to the batch."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

Carry = TypeVar("Carry")


def repeat_together(
    advance: Callable[[Array, Carry], Carry],
    start: Carry,
    moving: Callable[[Carry], Bool[Array, "*batch"]],
    max_steps: int,
    steps_a_look: int = 1,
) -> Carry:
    """`advance(number, carry)` until no sample is moving, at most `max_steps` times.

    A sample that has ended goes on with the others: `advance` keeps it, or it does not matter.
    Whether one is moving is asked after every `steps_a_look`, a divisor of `max_steps`.
    Under `vmap` `lax.while_loop` would keep every array of each run that has ended by a selection
    at every step, which small runs take as long for as for the step. Here runs, too, go on until
    the last one has ended.
    """
    first = jnp.zeros((), jnp.int32)
    # What the functions close over, as arguments: `custom_vmap` must see all that has a new axis.
    advance = eqx.filter_closure_convert(advance, first, start)
    moving = eqx.filter_closure_convert(moving, start)
    return _loop((advance, moving), start, max_steps, steps_a_look)


def _loop(functions: Any, start: Carry, max_steps: int, steps_a_look: int) -> Carry:
    given, code = eqx.partition(functions, eqx.is_array)

    @jax.custom_batching.custom_vmap
    def run(given: Any, start: Carry) -> Carry:
        advance, moving = eqx.combine(given, code)

        def until_the_next_look(number: Array, carry: Carry) -> Carry:
            if steps_a_look == 1:
                return advance(number, carry)
            # Of a known length, so that nothing is asked on the way.
            return jax.lax.fori_loop(
                0, steps_a_look, lambda i, carry: advance(number + i, carry), carry
            )

        return jax.lax.while_loop(
            lambda at: (at[0] < max_steps) & jnp.any(moving(at[1])),
            lambda at: (at[0] + steps_a_look, until_the_next_look(*at)),
            (jnp.zeros((), jnp.int32), start),
        )[1]

    @run.def_vmap
    def of_runs(axis_size: int, in_batched: list[Any], given: Any, start: Carry):
        given_axes = jax.tree.map(lambda added: 0 if added else None, in_batched[0])

        def broadcast(leaf: Array, added: bool) -> Array:
            return leaf if added else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))

        def advance(number: Array, carry: Carry) -> Carry:
            def one(given: Any, carry: Carry) -> Carry:
                return eqx.combine(given, code)[0](number, carry)

            return jax.vmap(one, (given_axes, 0))(given, carry)

        def moving(carry: Carry) -> Array:
            def one(given: Any, carry: Carry) -> Array:
                return eqx.combine(given, code)[1](carry)

            return jax.vmap(one, (given_axes, 0))(given, carry)

        start = jax.tree.map(broadcast, start, in_batched[1])
        found = repeat_together(advance, start, moving, max_steps, steps_a_look)
        return found, jax.tree.map(lambda _: True, found)

    return run(given, start)
