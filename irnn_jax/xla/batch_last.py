"""Functions of a batch that lies last, for which what `jax.vmap` adds to the batch lies last too.

`jax.vmap` puts its new axis first. Runs, networks and samples then end up as many small arrays one
behind the other, and every elementwise operation on a handful of neurons is a short loop. Joined
with the axis of the samples, they make one long loop.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from irnn_jax.xla.promotion import with_default_promotion
from irnn_jax.xla.tuning import ALONE_FROM, JOIN_UP_TO


def batch_last(
    function: Callable[..., Any], axes: tuple[int, ...], *, up_to: int = JOIN_UP_TO
) -> Any:
    """`function`, with a rule for `jax.vmap` that joins the new axis with the batch.

    Nothing may differentiate it in reverse mode, which a `custom_vmap` does not have.

    Args:
        function: of arrays (*own, *batch), which returns a pytree of arrays likewise. They have
            the same number of batch axes; those of a matrix may have length one, and those of what
            comes back that all samples share.
        axes: how many own axes each argument has: 1 for a vector, 2 for a matrix.
        up_to: rows of the largest matrix that is joined.
    """
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    @with_default_promotion
    def rule(axis_size: int, in_batched: list[bool], *arguments: jax.Array):
        wide = any(
            added and own > 1 and argument.shape[1] > up_to
            for argument, own, added in zip(arguments, axes, in_batched, strict=True)
        )
        in_axes = [0 if added else None for added in in_batched]
        if wide:
            result = jax.vmap(function, in_axes)(*arguments)
        elif jax.default_backend() == "cpu" and _large(in_batched, arguments, axes):
            each = batch_last(function, axes, up_to=up_to)  # what another vmap adds
            result = jax.vmap(jax.custom_batching.sequential_vmap(each), in_axes)(*arguments)
        else:
            # The new axis becomes the first of the batch, of length one where it is not there.
            arguments = tuple(
                jnp.moveaxis(argument, 0, own) if added else jnp.expand_dims(argument, own)
                for argument, own, added in zip(arguments, axes, in_batched, strict=True)
            )
            shapes = [argument.shape[own:] for argument, own in zip(arguments, axes, strict=True)]
            batch = jnp.broadcast_shapes((axis_size,) + (1,) * (len(shapes[0]) - 1), *shapes)
            joined = [
                _join(argument, own, batch) for argument, own in zip(arguments, axes, strict=True)
            ]
            flat = batch_last(function, axes, up_to=up_to)(*joined)
            each = jax.tree.map(lambda leaf: leaf.shape[-1] == math.prod(batch), flat)
            return jax.tree.map(functools.partial(_parted, batch), flat, each), each
        return result, jax.tree.map(lambda _: True, result)

    return batched


def _large(in_batched: list[bool], arguments: tuple[jax.Array, ...], axes: tuple[int, ...]) -> bool:
    """Whether each of the matrices that `vmap` adds has many samples."""
    samples, matrix_is_added = 0, False
    for argument, own, added in zip(arguments, axes, in_batched, strict=True):
        shape = argument.shape[own + added :]
        if own == 1:
            samples = max(samples, math.prod(shape))
        elif own == 2:
            matrix_is_added |= added and math.prod(shape) == 1
    return matrix_is_added and samples >= ALONE_FROM


def _parted(batch: tuple[int, ...], leaf: jax.Array, each: bool) -> jax.Array:
    """Several batch axes in place of one, the new one first; it is not there in what is shared."""
    own = leaf.shape[:-1]
    if not each:
        return leaf.reshape(*own, *(1 for _ in batch[1:]))
    return jnp.moveaxis(leaf.reshape(*own, *batch), len(own), 0)


def _join(argument: jax.Array, own: int, batch: tuple[int, ...]) -> jax.Array:
    """One batch axis in place of several; of length one for a matrix that all samples share."""
    shape = argument.shape[:own]
    if own == 1 or math.prod(argument.shape[own:]) > 1:
        argument = jnp.broadcast_to(argument, (*shape, *batch))
    return argument.reshape(*shape, -1)
