"""What keeps training from losing an equilibrium: look back every few steps.

The exact gradient knows how an equilibrium moves, and nothing of the path that leads to it. As the
weights change, a new pair of equilibria can be born on the way of the flow from Y = 0; it then
comes to rest there, and the answer jumps although the old equilibrium is stable and far from any
fold. No gradient, margin or predicted movement at the old one shows it coming (docs/robustness.md);
solving again after the update does.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.xla.conditional import run_if


class GuardState(NamedTuple):
    """What the guard remembers between its looks.

    Attributes:
        net: the parameters at the last look, to which a rejected stretch goes back.
        scale: the factor on the optimiser's updates, in (0, 1], ().
    """

    net: Any
    scale: Float[Array, ""]

    @classmethod
    def create(cls, net: Any) -> "GuardState":
        """Before the first step. A copy: both are donated, and may not share buffers."""
        dtype = jnp.result_type(*jax.tree.leaves(net))
        return cls(net=jax.tree.map(jnp.copy, net), scale=jnp.ones((), dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guard:
    """Every few steps, solve the batch again with the new weights and with those of the last look.

    If the mean loss of its samples rose by more than `rise` times their mean absolute loss, or if
    one of them lost its equilibrium, the steps since the last look are taken back, and updates are
    scaled by `shrink` from then on; otherwise the scale grows by `grow`, up to 1. A look costs two
    forward solves, a few percent of `every` steps. Networks without recurrent weights have nothing
    to lose and are not looked at.

    Attributes:
        every: steps between two looks.
        rise: the largest rise of the loss that is kept. Between two looks training lowers the loss
            of a batch, or raises it by a fraction; a lost equilibrium raises it many times.
        shrink: factor on the scale of updates after a rejection.
        grow: factor on it after each look that found all well.
    """

    every: int = 20
    rise: float = 3.0
    shrink: float = 0.5
    grow: float = 1.1

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")
        if not self.rise > 0:
            raise ValueError(f"rise must be positive, got {self.rise}")
        if not 0 < self.shrink < 1:
            raise ValueError(f"shrink must be between 0 and 1, got {self.shrink}")
        if not self.grow >= 1:
            raise ValueError(f"grow must be at least 1, got {self.grow}")

    def look(
        self,
        state: GuardState,
        net: Any,
        step: Array,
        losses: Callable[[Any], tuple[Array, Array]],
    ) -> tuple[Any, GuardState, Bool[Array, ""]]:
        """Keep `net`, or go back.

        Args:
            state: from the step before.
            net: the parameters after the update.
            step: the number of steps taken, this one included.
            losses: net -> the loss of each sample of the batch, and which of them may be used.

        Returns:
            The parameters to go on with, the guard's new state, and whether the steps since the
            last look were taken back.
        """

        def at_a_look(carry):
            net, state, _ = carry
            # One after the other, by one compiled solve.
            both = jax.tree.map(lambda *leaves: jnp.stack(leaves), state.net, net)
            values, usable = jax.lax.map(losses, both)
            usable = usable & jnp.isfinite(values)
            lost = jnp.any(usable[0] & ~usable[1])
            shared = usable[0] & usable[1]
            before, after = jnp.where(shared, values, 0)
            # The root of eps is what a loss of zero may rise by.
            floor = float(jnp.finfo(values.dtype).eps) ** 0.5
            rise = jnp.sum(jnp.where(shared, jnp.abs(before) + floor, 0))
            rejected = lost | (jnp.sum(after - before) > self.rise * rise)
            net = _choose(rejected, state.net, net)
            scale = jnp.where(
                rejected, state.scale * self.shrink, jnp.minimum(1, state.scale * self.grow)
            )
            # A batch without a usable sample shows nothing: the last look stays the last.
            seen = jnp.any(usable[0])
            looked = GuardState(net=net, scale=scale)
            return net, _choose(seen, looked, state), rejected

        carry = (net, state, jnp.zeros((), bool))
        return run_if(step % self.every == 0, at_a_look, carry)


def _choose(condition: Bool[Array, ""], tree: Any, otherwise: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), tree, otherwise)
