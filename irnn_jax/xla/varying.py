"""What `jax.shard_map` wants to know of a loop: over which mesh axes its carry differs.

A loop that starts with a constant (zero steps, no sample done) and goes on with numbers that differ
from device to device has a carry of two types, which `shard_map` refuses. Here all of a carry
varies over the axes over which anything in it does.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax

Tree = TypeVar("Tree")


def varying_axes(tree: Any) -> tuple[str, ...]:
    """The manual mesh axes over which any array of the tree differs; () outside `shard_map`."""
    axes: set[str] = set()
    for leaf in jax.tree.leaves(tree):
        axes |= _axes_of(leaf)
    return tuple(sorted(axes))


def vary(tree: Tree, axes: tuple[str, ...]) -> Tree:
    """The same numbers, said to differ over these axes."""
    if not axes:
        return tree

    def cast(leaf: Any) -> Any:
        missing = tuple(axis for axis in axes if axis not in _axes_of(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)


def _axes_of(leaf: Any) -> frozenset[str]:
    # Of earlier versions of JAX the type says `vma` itself.
    kind = jax.typeof(leaf)
    return getattr(getattr(kind, "mat", kind), "varying", getattr(kind, "vma", frozenset()))


def axes_of_a_call(
    function: Callable[..., Any], arguments: tuple[Any, ...], *others: Any
) -> tuple[str, ...]:
    """Over which axes what a function returns may differ, by what it is given and closes over."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return ()
    closed = eqx.filter_closure_convert(function, *arguments)
    return varying_axes(eqx.filter((closed, arguments, others), eqx.is_array))
