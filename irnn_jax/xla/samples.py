"""Flags of samples, beside leaves whose first axes are the samples'."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def beside(flags: Bool[Array, "*batch"], leaf: Array) -> Array:
    """The flags, with as many axes as the leaf, (*batch, 1, ...)."""
    return flags.reshape(flags.shape + (1,) * (leaf.ndim - flags.ndim))


def kept(flags: Bool[Array, "*batch"], tree: Any) -> Any:
    """`tree` with zeros in the samples that are not flagged."""

    def keep(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return jnp.where(beside(flags, leaf), leaf, 0)

    return jax.tree.map(keep, tree)


def are_finite(tree: Any, num_axes: int) -> Any:
    """Which samples, of so many first axes, have only finite numbers in all leaves."""
    finite: Any = True
    for leaf in jax.tree.leaves(tree):
        own_axes = tuple(range(num_axes, jnp.ndim(leaf)))
        finite = finite & jnp.all(jnp.isfinite(leaf), axis=own_axes)
    return finite
