"""The size of a residual, of which a NaN is never lost."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Of so many rows one loop over the samples is faster than what XLA has for a maximum.
IN_ONE_LOOP_UP_TO = 64


def max_norm(residual: Float[Array, "n *batch"]) -> Float[Array, "*batch"]:
    """max|residual| of each sample, NaN if one of its numbers is, 0 for an empty state.

    Not `jnp.max` alone: from some 4,096 numbers on XLA hands a maximum on a CPU to a library that
    leaves NaN out (jax 0.10), and a state of NaN would seem to be at rest. No gradient goes
    through it: what it measures decides about steps, and about what is kept.
    """
    size = jnp.abs(jax.lax.stop_gradient(residual))
    if len(size) > IN_ONE_LOOP_UP_TO:
        largest = jnp.max(size, axis=0)
        return jnp.where(jnp.any(jnp.isnan(size), axis=0), jnp.nan, largest)
    # Numbers that are not negative are ordered as their bits are, with NaN above all.
    integer = jnp.dtype(f"int{jnp.finfo(size.dtype).bits}")
    bits = jax.lax.bitcast_convert_type(size, integer)
    return jax.lax.bitcast_convert_type(jnp.max(bits, axis=0, initial=0), size.dtype)
