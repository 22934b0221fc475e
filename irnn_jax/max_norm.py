"""The size of a residual, of which a NaN is never lost."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Of more rows first the maximum of each of so many groups: loops that stay in the cache.
IN_ONE_LOOP_UP_TO, GROUPS = 64, 16


def max_norm(residual: Float[Array, "..."], axis: int = 0, keepdims: bool = False) -> Array:
    """max|residual| along an axis, by default that of the neurons: (n, *batch) -> (*batch).

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
    if axis == 0 and len(bits) > IN_ONE_LOOP_UP_TO:
        filled = jnp.pad(bits, [(0, -len(bits) % GROUPS)] + [(0, 0)] * (bits.ndim - 1))
        bits = jnp.max(filled.reshape(GROUPS, -1, *bits.shape[1:]), axis=1)
    if axis == 1:
        bits = _folded(bits)
    largest = jnp.max(bits, axis=axis, initial=0, keepdims=keepdims)
    return jax.lax.bitcast_convert_type(largest, size.dtype)


def _folded(rows: Array) -> Array:
    """(batch, n) -> (batch, some) with the same maxima, by vector instructions."""
    n = rows.shape[1]
    width = max(8, n // 8)
    starts = [min(start, n - width) for start in range(0, n, width)] if n > width else [0]
    return functools.reduce(jnp.maximum, (rows[:, start : start + width] for start in starts))
