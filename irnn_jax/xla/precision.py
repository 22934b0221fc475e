"""Another precision for whatever holds numbers."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from irnn_jax.xla.tuning import FAST_IN_DOUBLE

Tree = TypeVar("Tree")


def is_fast_in_double() -> bool:
    """Whether the default device is a GPU made for double precision."""
    return getattr(jax.devices()[0], "compute_capability", None) in FAST_IN_DOUBLE


# Weights and drives of more saturate every neuron, in float32 as in float64, and sums of these are
# finite in float32.
LARGEST = 1e30


def in_precision(tree: Tree, dtype: Any) -> Tree:
    """A pytree with its floating-point arrays in another dtype; counts and flags stay.

    What is finite stays finite: in a narrower dtype numbers are at most `LARGEST`.
    """

    def convert(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        if jnp.finfo(leaf.dtype).bits > jnp.finfo(dtype).bits:
            leaf = jnp.where(jnp.isinf(leaf), leaf, jnp.clip(leaf, -LARGEST, LARGEST))
        return leaf.astype(dtype)

    return jax.tree.map(convert, tree)
