"""A large batch one piece after the other, so that what is computed of each stays in the cache."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jaxtyping import Array, Bool, Int

from irnn_jax.problem import DIRECT_UP_TO
from irnn_jax.side_by_side import side_by_side

Carry = TypeVar("Carry")
Found = TypeVar("Found")

# Samples in a piece of those that an iteration has left: the slowest keeps few waiting.
FEW = 32
# Numbers in the matrices of all samples of a network: of more, each network has its own pieces.
COPIED_UP_TO = 2**16


def in_pieces(
    work: Callable[[Carry, Any, Bool[Array, " width"]], tuple[Carry, Found]],
    carry: Carry,
    batch: Any,
    *,
    count: int,
    width: int,
    first: Int[Array, ""] | None = None,
) -> tuple[Carry, Found]:
    """`work` on `width` samples at a time, in order: the last carry, and what was found of all.

    No reverse mode goes through it.

    Args:
        work: carry, a piece of the batch, which of its samples an earlier piece had -> the next
            carry and what was found of the piece, arrays whose samples lie last.
        carry: what the first piece gets.
        batch: arrays whose `count` samples lie last; of length one there is one for all.
        count: samples in all.
        width: samples in a piece; the last one begins within the one before it.
        first: how many samples matter, the first ones; None: all. Of the others zeros are found.
    """
    # Traced once, for the shapes and for the loop.
    work = jax.jit(work)

    def slice_at(start: Array) -> Any:
        def piece(leaf: Array) -> Array:
            if leaf.shape[-1] == 1:
                return leaf
            return jax.lax.dynamic_slice_in_dim(leaf, start, width, axis=-1)

        return jax.tree.map(piece, batch)

    def one(number: Array, state: tuple[Carry, Found]) -> tuple[Carry, Found]:
        carry, found = state
        start = jnp.minimum(number * width, count - width)
        seen = start + jnp.arange(width, dtype=jnp.int32) < number * width
        carry, part = work(carry, slice_at(start), seen)

        def write(all_: Array, some: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(all_, some, start, axis=-1)

        return carry, jax.tree.map(write, found, part)

    zero, seen = jnp.int32(0), jax.ShapeDtypeStruct((width,), bool)
    _, like = jax.eval_shape(lambda c, s: work(c, slice_at(zero), s), carry, seen)
    blank = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], count), leaf.dtype), like)
    pieces = -(-(count if first is None else first) // width)
    return jax.lax.fori_loop(zero, jnp.asarray(pieces, jnp.int32), one, (carry, blank))


def those_that_need_it(
    work: Callable[..., Found], needed: Bool[Array, "*batch"], state: Found, *given: Any
) -> Found:
    """`work(state, *given)` of the samples that need it, on one CPU without the others in between.

    They go in pieces, those of small networks that `vmap` adds all together. The last piece is
    filled up with samples that do not need it, and elsewhere all are given: `work` keeps the state
    of those.
    """
    if needed.ndim != 1 or not on_one_cpu():
        return work(state, *given)
    leaves, tree = jax.tree.flatten((needed, state, *given))

    def flat(*leaves: Array) -> Found:
        return _in_few(work, *jax.tree.unflatten(tree, leaves))

    matrices = [leaf for leaf in leaves if leaf.ndim == 3]
    if any(leaf[..., 0].size * needed.size > COPIED_UP_TO for leaf in matrices):
        return flat(*leaves)
    axes = tuple(leaf.ndim - 1 for leaf in leaves)
    return side_by_side(flat, axes, up_to=DIRECT_UP_TO)(*leaves)


def _in_few(
    work: Callable[..., Found], needed: Bool[Array, " samples"], state: Found, *given: Any
) -> Found:
    count = needed.size
    if count <= FEW:
        return work(state, *given)
    order = jnp.argsort(~needed)  # stable

    def sorted_(leaf: Array) -> Array:
        return leaf if leaf.shape[-1] == 1 else leaf[..., order]

    def piece(carry: None, part: tuple[Any, ...], seen: Array) -> tuple[None, Found]:
        del carry, seen
        return None, work(*part)

    batch, first = jax.tree.map(sorted_, (state, *given)), jnp.sum(needed, dtype=jnp.int32)
    _, found = in_pieces(piece, None, batch, count=count, width=FEW, first=first)
    back = jnp.argsort(order)
    return jax.tree.map(lambda new, old: jnp.where(needed, new[..., back], old), found, state)


def where_it_pays(
    work: Callable[[Carry, Any, Bool[Array, " width"]], tuple[Carry, Found]],
    carry: Carry,
    batch: Any,
    *,
    count: int,
    width: int,
) -> tuple[Carry, Found]:
    """The same on one CPU, and at once elsewhere."""
    if count <= width or not on_one_cpu():
        return work(carry, batch, jnp.zeros(count, bool))
    return in_pieces(work, carry, batch, count=count, width=width)


def on_one_cpu() -> bool:
    """Whether what is traced runs on one device, and that is a CPU.

    Otherwise pieces are a loss: the samples may be spread over the devices, and a GPU wants many.
    """
    axes = jax.sharding.get_abstract_mesh().axis_types
    by_hand = bool(axes) and all(axis is AxisType.Manual for axis in axes)
    return jax.default_backend() == "cpu" and (jax.device_count() == 1 or by_hand)
