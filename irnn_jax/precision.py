"""Another precision for whatever holds numbers."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


def in_precision(tree: Tree, dtype: Any) -> Tree:
    """A pytree with its floating-point arrays in another dtype; counts and flags stay."""

    def convert(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(convert, tree)
