"""How Q and T are drawn, by name; a new way is a line in the table. W and R start at zero.

`glorot` and `lecun` keep the size of activities and gradients from layer to layer, where the
activation's slope is about 1. The sigmoid's is 1/4 at 0: the factor of 4 that is often given for
it is not in them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
from jax.nn import initializers
from jaxtyping import Array

Draw = Callable[[chex.PRNGKey, tuple[int, ...], Any], Array]


class Initialization(NamedTuple):
    """How a layer's weights are drawn: key, shape, dtype -> array.

    Attributes:
        feedforward: of Q, (size, below).
        bias: of T, (size,).
    """

    feedforward: Draw
    bias: Draw


def _half(key: chex.PRNGKey, shape: tuple[int, ...], dtype: Any) -> Array:
    """Uniform in [-0.5, 0.5], as the paper draws (section 3.2)."""
    return jax.random.uniform(key, shape, dtype, -0.5, 0.5)


# Q is (size, below): what comes in is the last axis.
_glorot = initializers.glorot_uniform(in_axis=-1, out_axis=-2)
# Not truncated, as JAX's own `lecun_normal` is.
_lecun = initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=-1, out_axis=-2)

INITIALIZATIONS = {
    "paper": Initialization(feedforward=_half, bias=_half),
    "glorot": Initialization(feedforward=_glorot, bias=initializers.zeros),
    "lecun": Initialization(feedforward=_lecun, bias=initializers.zeros),
}


def find_initialization(name: str) -> Initialization:
    """The one of this name; a ValueError that lists them for another."""
    if not isinstance(name, str) or name not in INITIALIZATIONS:
        known = ", ".join(map(repr, INITIALIZATIONS))
        raise ValueError(f"unknown initialization {name!r}; there are {known}")
    return INITIALIZATIONS[name]
