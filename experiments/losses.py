"""Losses of one sample, for studies."""

import jax.numpy as jnp
import optax
from jaxtyping import Array


def cross_entropy(output: Array, target: Array) -> Array:
    """The binary cross entropy of outputs in (0, 1), summed over them."""
    # A saturated sigmoid rounds to 0 or 1, where the logarithm has no finite slope.
    tiny = jnp.finfo(output.dtype).eps
    output = jnp.clip(output, tiny, 1 - tiny)
    return -jnp.sum(target * jnp.log(output) + (1 - target) * jnp.log1p(-output))


def softmax_cross_entropy(logits: Array, target: Array) -> Array:
    """The cross entropy of the classes' probabilities, softmax of logits, with a one-hot target."""
    return optax.softmax_cross_entropy(logits, target)
