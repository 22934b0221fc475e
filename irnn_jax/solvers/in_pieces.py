"""A large batch one piece after the other, so that what is computed of each stays in the cache."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jaxtyping import Array, Bool

Carry = TypeVar("Carry")
Found = TypeVar("Found")


def in_pieces(
    work: Callable[[Carry, Any, Bool[Array, " width"]], tuple[Carry, Found]],
    carry: Carry,
    batch: Any,
    *,
    count: int,
    width: int,
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
    """

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

    first, seen = jnp.int32(0), jax.ShapeDtypeStruct((width,), bool)
    _, like = jax.eval_shape(lambda c, s: work(c, slice_at(first), s), carry, seen)
    blank = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], count), leaf.dtype), like)
    return jax.lax.fori_loop(first, jnp.int32(-(-count // width)), one, (carry, blank))


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
