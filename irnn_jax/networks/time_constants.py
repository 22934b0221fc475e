"""Time constants as a caller gives them, checked, and as the rates that the flow is slowed by."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

# One entry for each layer, from the first hidden one to the output: a number, or (size,).
TimeConstants = Sequence[ArrayLike]


def rates_of_layers(
    time_constants: TimeConstants | None, sizes: tuple[int, ...]
) -> Float[Array, " n"] | None:
    """The rate r = min(tau)/tau of each neuron, (n,); None where all are known to be equal.

    Raises:
        ValueError: there is not one entry for each layer, or one is neither a positive number nor
            an array of positive numbers, one for each neuron.
    """
    if time_constants is None:
        return None
    if not isinstance(time_constants, tuple | list):
        raise ValueError(
            f"time_constants must be a tuple with one entry for each layer, got {time_constants!r}"
        )
    if len(time_constants) != len(sizes):
        entries = "1 entry" if len(time_constants) == 1 else f"{len(time_constants)} entries"
        layers = "1 layer" if len(sizes) == 1 else f"{len(sizes)} layers"
        raise ValueError(f"time_constants has {entries}, but the network has {layers}")
    for i, (tau, size) in enumerate(zip(time_constants, sizes, strict=True)):
        check_time_constant(tau, f"time_constants[{i}]")
        if jnp.shape(tau) not in ((), (size,)):
            raise ValueError(
                f"time_constants[{i}] has shape {jnp.shape(tau)}, but layer {i} takes one number, "
                f"or ({size},)"
            )
    if are_equal(time_constants):
        return None
    pairs, dtype = zip(time_constants, sizes, strict=True), jnp.zeros(()).dtype
    parts = [jnp.broadcast_to(jnp.asarray(tau, dtype), (size,)) for tau, size in pairs]
    return relative_rates(jnp.concatenate(parts), axis=0)


def rates_of_state(
    time_constants: Any, y0: Any, shape: Any, batch: tuple[int, ...]
) -> Float[Array, "batch n"] | None:
    """The same for a state of any form, flat as `shape` has it.

    Raises:
        ValueError: it is not a pytree like y0, whose leaves broadcast with those of y0, or has a
            number that is not positive.
    """
    if time_constants is None:
        return None
    expected, got = jax.tree.structure(y0), jax.tree.structure(time_constants)
    if expected != got:
        raise ValueError(f"time_constants must be a pytree like y0, {expected}, got {got}")
    leaves = jax.tree.leaves(time_constants)
    paths = jax.tree_util.tree_leaves_with_path(y0)
    for (path, leaf), tau in zip(paths, leaves, strict=True):
        name = f"time_constants{jax.tree_util.keystr(path)}"
        check_time_constant(tau, name)
        try:
            fits = jnp.broadcast_shapes(jnp.shape(tau), leaf.shape) == leaf.shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"{name} has shape {jnp.shape(tau)}, but must broadcast with y0's {leaf.shape}"
            )
    if are_equal(leaves):
        return None
    full = jax.tree.map(lambda leaf, tau: jnp.broadcast_to(tau, leaf.shape), y0, time_constants)
    flat = shape.flatten(full, batch).reshape(*(batch or (1,)), -1)
    return relative_rates(flat, axis=-1)


def check_time_constant(tau: Any, name: str) -> None:
    """Raise a ValueError unless it is made of positive numbers, or traced."""
    try:
        dtype = jnp.result_type(tau)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a positive number or an array, got {tau!r}") from error
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{name} must be made of numbers, got dtype {dtype}")
    if isinstance(tau, Tracer):
        return
    numbers = np.asarray(tau, np.float64)
    if not np.all((numbers > 0) & (numbers < math.inf)):
        raise ValueError(f"{name} must be positive and finite, got {tau}")


def are_equal(time_constants: Sequence[Any]) -> bool:
    """Whether all are numbers of Python or numpy, and the same: only their ratios matter."""
    if any(isinstance(tau, jax.Array) for tau in time_constants):
        return False
    numbers = np.concatenate([np.ravel(np.asarray(tau, np.float64)) for tau in time_constants])
    return numbers.size == 0 or bool(np.all(numbers == numbers[0]))


def relative_rates(tau: Float[Array, "*state"], axis: int) -> Float[Array, "*state"]:
    """min(tau)/tau, of each sample; NaN of traced numbers that are not positive."""
    tau = jax.lax.stop_gradient(jnp.where((tau > 0) & (tau < jnp.inf), tau, jnp.nan))
    return jnp.min(tau, axis=axis, keepdims=True) / tau
