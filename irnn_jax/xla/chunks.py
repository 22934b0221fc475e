"""A large batch one chunk after the other, so that what is computed of each stays in the cache."""

import itertools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from irnn_jax.xla.batch_last import batch_last
from irnn_jax.xla.device import on_one_cpu
from irnn_jax.xla.tuning import COPIED_UP_TO, DIRECT_UP_TO, FEW
from irnn_jax.xla.varying import axes_of_a_call, vary

Carry = TypeVar("Carry")
Found = TypeVar("Found")


def map_chunks(
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
        work: carry, a chunk of the batch, which of its samples an earlier chunk had -> the next
            carry and what was found of the chunk, arrays whose samples lie last.
        carry: what the first chunk gets.
        batch: arrays whose `count` samples lie last; of length one there is one for all.
        count: samples in all.
        width: samples in a chunk; the last one begins within the one before it.
        first: how many samples matter, the first ones; None: all. Of the others zeros are found.
    """
    # Traced once, for the shapes and for the loop.
    work = jax.jit(work)

    def slice_at(start: Array) -> Any:
        def chunk(leaf: Array) -> Array:
            if leaf.shape[-1] == 1:
                return leaf
            return jax.lax.dynamic_slice_in_dim(leaf, start, width, axis=-1)

        return jax.tree.map(chunk, batch)

    def one(number: Array, state: tuple[Carry, Found]) -> tuple[Carry, Found]:
        carry, found = state
        start = jnp.minimum(number * width, count - width)
        seen = start + jnp.arange(width, dtype=jnp.int32) < number * width
        carry, part = work(carry, slice_at(start), seen)

        def write(all_: Array, some: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(all_, some, start, axis=-1)

        return vary((carry, jax.tree.map(write, found, part)), axes)

    axes = axes_of_a_call(lambda: work(carry, slice_at(jnp.int32(0)), jnp.zeros(width, bool)), ())
    carry = vary(carry, axes)
    zero, seen = jnp.int32(0), jax.ShapeDtypeStruct((width,), bool)
    _, like = jax.eval_shape(lambda c, s: work(c, slice_at(zero), s), carry, seen)
    blank = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], count), leaf.dtype), like)
    chunks = -(-(count if first is None else first) // width)
    return jax.lax.fori_loop(zero, jnp.asarray(chunks, jnp.int32), one, vary((carry, blank), axes))


def run_for(
    work: Callable[..., Found], needed: Bool[Array, "1 samples"], state: Found, *given: Any
) -> Found:
    """`work(state, *given)` of the samples that need it, on one CPU without the others in between.

    They go in chunks, those of small networks that `vmap` adds all together. The last chunk is
    filled up with samples that do not need it, and elsewhere all are given: `work` keeps the state
    of those.
    """
    if not isinstance(needed.size, int) or not on_one_cpu():
        return work(state, *given)
    leaves, tree = jax.tree.flatten((needed, state, *given))

    def flat(*leaves: Array) -> Found:
        return _in_few(work, *jax.tree.unflatten(tree, leaves))

    matrices = [leaf for leaf in leaves if leaf.ndim == 3]
    if any(leaf[..., 0].size * needed.size > COPIED_UP_TO for leaf in matrices):
        return flat(*leaves)
    axes = tuple(leaf.ndim - 1 for leaf in leaves)
    return batch_last(flat, axes, up_to=DIRECT_UP_TO)(*leaves)


def _in_few(
    work: Callable[..., Found], needed: Bool[Array, "1 samples"], state: Found, *given: Any
) -> Found:
    count = needed.size
    if count <= FEW:
        return work(state, *given)
    order = jnp.argsort(~needed[0])  # stable
    batch = [leaf[..., order] for leaf in _packed((state, *given), count)]

    def chunk(carry: None, part: list[Array], seen: Array) -> tuple[None, list[Array]]:
        del carry, seen
        found = work(*_unpacked(part, (state, *given), count))
        return None, _packed(found, FEW)

    first = jnp.sum(needed, dtype=jnp.int32)
    _, found = map_chunks(chunk, None, batch, count=count, width=FEW, first=first)
    back = jnp.argsort(order)
    found = _unpacked([new[..., back] for new in found], state, count)
    return jax.tree.map(lambda new, old: jnp.where(needed, new, old), found, state)


def _own(tree: Any, count: int) -> dict[Any, list[int]]:
    """Which leaves have one column for each sample, by their dtype."""
    kinds: dict[Any, list[int]] = {}
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        if leaf.shape[-1] == count:
            kinds.setdefault(jnp.dtype(leaf.dtype), []).append(number)
    return kinds


def _packed(tree: Any, count: int) -> list[Array]:
    """Arrays (rows, samples), one of each dtype: what is done to all takes one operation each."""
    leaves = jax.tree.leaves(tree)
    return [
        jnp.concatenate([leaves[number].reshape(-1, count) for number in numbers])
        for numbers in _own(tree, count).values()
    ]


def _unpacked(packed: list[Array], like: Any, count: int) -> Any:
    """The tree of which some samples were packed; what all share is as in `like`."""
    leaves, tree = jax.tree.flatten(like)
    for array, numbers in zip(packed, _own(like, count).values(), strict=True):
        shapes = [leaves[number].shape[:-1] for number in numbers]
        ends = list(itertools.accumulate(map(math.prod, shapes)))
        for number, shape, rows in zip(numbers, shapes, jnp.split(array, ends[:-1]), strict=True):
            leaves[number] = rows.reshape(*shape, array.shape[-1])
    return jax.tree.unflatten(tree, leaves)


def map_chunks_where_it_pays(
    work: Callable[[Carry, Any, Bool[Array, " width"]], tuple[Carry, Found]],
    carry: Carry,
    batch: Any,
    *,
    count: int,
    width: int,
) -> tuple[Carry, Found]:
    """The same on one CPU, and at once elsewhere."""
    # A size that an exported program leaves open is not a number yet.
    if not isinstance(count, int) or count <= width or not on_one_cpu():
        return work(carry, batch, jnp.zeros(count, bool))
    return map_chunks(work, carry, batch, count=count, width=width)
