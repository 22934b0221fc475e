"""Losses of one sample, for studies."""

import jax.numpy as jnp
from jaxtyping import Array


def cross_entropy(output: Array, target: Array) -> Array:
    """The binary cross entropy of outputs in (0, 1), summed over them."""
    # A saturated sigmoid rounds to 0 or 1, where the logarithm has no finite slope.
    tiny = jnp.finfo(output.dtype).eps
    output = jnp.clip(output, tiny, 1 - tiny)
    return -jnp.sum(target * jnp.log(output) + (1 - target) * jnp.log1p(-output))
