"""An activation function for each layer, as one function of the stacked state."""

import dataclasses
import itertools
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

Elementwise = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByLayer:
    """f = (f_1, ..., f_L) of a state that stacks the layers; hashable, like a plain function.

    The state is cut and not masked: with all functions evaluated at all neurons, what is infinite
    in a layer that is not a function's own would meet a cotangent of zero, and be NaN.

    Attributes:
        functions: from the first hidden layer to the output.
        sizes: the layers', likewise.
        axis: the neurons'.
    """

    functions: tuple[Elementwise, ...]
    sizes: tuple[int, ...]
    axis: int = 0

    def __call__(self, x: Float[Array, "*state"]) -> Float[Array, "*state"]:
        """f(x)."""
        return self.each(lambda function, part: function(part), x)

    def each(
        self, rule: Callable[[Elementwise, Array], Array], x: Float[Array, "*state"]
    ) -> Float[Array, "*state"]:
        """`rule(function, part)` of each layer's own part of x, put together again."""
        parts = jnp.split(x, list(itertools.accumulate(self.sizes[:-1])), axis=self.axis)
        pairs = zip(self.functions, parts, strict=True)
        return jnp.concatenate([rule(*pair) for pair in pairs], axis=self.axis)


def along(activation: Elementwise, axis: int) -> Elementwise:
    """The same activation, of states whose neurons lie along this axis."""
    if isinstance(activation, ByLayer):
        return dataclasses.replace(activation, axis=axis)
    return activation
