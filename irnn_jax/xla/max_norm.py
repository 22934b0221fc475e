"""The size of a residual, of which a NaN is never lost."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def max_norm(residual: Float[Array, "..."], axis: int = 0, keepdims: bool = False) -> Array:
    """max|residual| along an axis, by default the first one.

    NaN if one of its numbers is, 0 for an empty state.

    Not `jnp.max` on a CPU: from some 4,096 numbers on XLA hands a maximum to a library that leaves
    NaN out (jax 0.10), and a state of NaN would seem to be at rest; and it takes two to five times
    as long. No gradient goes through it: what it measures decides about steps, and about what is
    kept.
    """
    size = jnp.abs(jax.lax.stop_gradient(residual))
    if jax.default_backend() != "cpu":
        return jnp.max(size, axis=axis, initial=0, keepdims=keepdims)
    # Numbers that are not negative are ordered as their bits are, with NaN above all.
    integer = jnp.dtype(f"int{jnp.finfo(size.dtype).bits}")
    bits = jax.lax.bitcast_convert_type(size, integer)
    largest = jnp.max(bits, axis=axis, initial=0, keepdims=keepdims)
    return jax.lax.bitcast_convert_type(largest, size.dtype)
