"""Loops over a batch: one that is fast, and one that reverse mode goes through.

A gradient hands the solver its loop. `Plain` ends for all samples at once, leaves out what nobody
needs, and has no reverse mode. `Differentiable` is for `irnn_jax.Unrolled`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from irnn_jax.xla.conditional import run_if
from irnn_jax.xla.one_function import as_one_function
from irnn_jax.xla.varying import axes_of_a_call, vary, varying_axes

Carry = TypeVar("Carry")


@runtime_checkable
class Loop(Protocol):
    """How a solver repeats its steps, and does what only some samples need.

    `skips` says whether work that no sample needs is left out; a solver that is made of several
    parts, of which most batches need the first only, asks for it.
    """

    @property
    def skips(self) -> bool:
        """Whether what nobody needs is left out."""
        ...

    def repeat(
        self,
        advance: Callable[[Array, Carry], Carry],
        start: Carry,
        moving: Callable[[Carry], Bool[Array, "..."]],
        max_steps: int,
        check_every: int = 1,
        as_one: bool = False,
    ) -> Carry:
        """`advance(number, carry)` until no sample is moving, at most `max_steps` times.

        `as_one`: its steps are arithmetic on a handful of neurons (`xla/one_function.py`).
        """
        ...

    def run_if(self, needed: Array, work: Callable[..., Carry], state: Carry, *given: Any) -> Carry:
        """`work(state, *given)` where a sample needs it; `work` keeps the state of the others."""
        ...

    def diffrax_adjoint(self) -> diffrax.AbstractAdjoint:
        """How diffrax differentiates its own loop."""
        ...


@dataclasses.dataclass(frozen=True)
class Plain:
    """The loop of the implicit gradients, which never differentiate it."""

    skips = True

    def repeat(
        self,
        advance: Callable[[Array, Carry], Carry],
        start: Carry,
        moving: Callable[[Carry], Bool[Array, "..."]],
        max_steps: int,
        check_every: int = 1,
        as_one: bool = False,
    ) -> Carry:
        """A sample that has ended goes on too: `advance` keeps it, or it does not matter.

        Whether one is moving is asked after every `check_every` steps, a divisor of `max_steps`.
        Under `vmap` `lax.while_loop` would keep every array of each run that has ended by a
        selection at every step, which small runs take as long for as for the step. Here runs, too,
        go on until the last one has ended.
        """
        first = jnp.zeros((), jnp.int32)
        axes = axes_of_a_call(lambda *at: (advance(*at), moving(at[1])), (first, start))
        first, start = vary((first, start), axes)
        # What the functions close over, as arguments: `custom_vmap` must see all that has a new
        # axis, and `vary` all that differs from device to device.
        advance = eqx.filter_closure_convert(advance, first, start)
        moving = eqx.filter_closure_convert(moving, start)
        return _loop((advance, moving), start, max_steps, check_every, as_one)

    def run_if(self, needed: Array, work: Callable[..., Carry], state: Carry, *given: Any) -> Carry:
        """Not evaluated where nobody needs it, also under `vmap`."""
        return run_if(needed, work, state, *given)

    def diffrax_adjoint(self) -> diffrax.AbstractAdjoint:
        """Diffrax's plain loop."""
        return diffrax.ForwardMode()


@dataclasses.dataclass(frozen=True)
class Differentiable:
    """Every step can be gone back, from some states that are kept.

    Attributes:
        checkpoints: how many; None: about the square root of the largest number of steps.
    """

    checkpoints: int | None = None
    skips = False

    def repeat(
        self,
        advance: Callable[[Array, Carry], Carry],
        start: Carry,
        moving: Callable[[Carry], Bool[Array, "..."]],
        max_steps: int,
        check_every: int = 1,
        as_one: bool = False,
    ) -> Carry:
        """As diffrax does, by the checkpointed loop of equinox (Stumm and Walther, 2010)."""
        del check_every, as_one
        carry = (jnp.zeros((), jnp.int32), start)
        return eqx.internal.while_loop(
            lambda carry: jnp.any(moving(carry[1])),
            lambda carry: (carry[0] + 1, advance(*carry)),
            carry,
            max_steps=max_steps,
            kind="checkpointed",
            checkpoints=self.checkpoints,
        )[1]

    def run_if(self, needed: Array, work: Callable[..., Carry], state: Carry, *given: Any) -> Carry:
        """Always evaluated: reverse mode cannot skip."""
        del needed
        return work(state, *given)

    def diffrax_adjoint(self) -> diffrax.AbstractAdjoint:
        """How diffrax backpropagates through its loop."""
        return diffrax.RecursiveCheckpointAdjoint(checkpoints=self.checkpoints)


def _loop(functions: Any, start: Carry, max_steps: int, check_every: int, as_one: bool) -> Carry:
    given, code = eqx.partition(functions, eqx.is_array)

    def plain(given: Any, start: Carry) -> Carry:
        advance, moving = eqx.combine(given, code)
        axes = varying_axes((given, start))

        def until_the_next_check(number: Array, carry: Carry) -> Carry:
            if check_every == 1:
                return advance(number, carry)
            # Of a known length, so that nothing is asked on the way.
            return jax.lax.fori_loop(
                0, check_every, lambda i, carry: vary(advance(number + i, carry), axes), carry
            )

        def body(at: tuple[Array, Carry]) -> tuple[Array, Carry]:
            return vary((at[0] + check_every, until_the_next_check(*at)), axes)

        first = vary((jnp.zeros((), jnp.int32), start), axes)
        return jax.lax.while_loop(
            lambda at: (at[0] < max_steps) & jnp.any(moving(at[1])), body, first
        )[1]

    run = jax.custom_batching.custom_vmap(as_one_function(plain) if as_one else plain)

    @run.def_vmap
    def of_runs(axis_size: int, in_batched: list[Any], given: Any, start: Carry):
        given_axes = jax.tree.map(lambda added: 0 if added else None, in_batched[0])

        def broadcast(leaf: Array, added: bool) -> Array:
            return leaf if added else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))

        def advance(number: Array, carry: Carry) -> Carry:
            number = vary(number, varying_axes((given, carry)))

            def one(given: Any, carry: Carry) -> Carry:
                return eqx.combine(given, code)[0](number, carry)

            return jax.vmap(one, (given_axes, 0))(given, carry)

        def moving(carry: Carry) -> Array:
            def one(given: Any, carry: Carry) -> Array:
                return eqx.combine(given, code)[1](carry)

            return jax.vmap(one, (given_axes, 0))(given, carry)

        start = jax.tree.map(broadcast, start, in_batched[1])
        found = Plain().repeat(advance, start, moving, max_steps, check_every, as_one)
        return found, jax.tree.map(lambda _: True, found)

    return run(given, start)
