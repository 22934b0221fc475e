"""Convolutions as XLA's compiler for CPUs has them fast, also inside of a loop.

It brings a convolution into the order that its library takes (samples, places, channels) only
outside of loops. Inside, the transpose of a user's convolution, or one with channels first, runs as
the plain nest of loops that it is written as: 5 to 15 times slower (`python -m
benchmarks.convolution`). And of double precision its library has none. So a function that is about
to be repeated is rewritten: the same operations in the same order, but each convolution brought
into that order, in double precision as one product with the columns of its input.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from irnn_jax.xla.rewrite import evaluate, has_any


def canonical(function: Callable[[jax.Array], Any], like: jax.Array) -> Callable[[jax.Array], Any]:
    """`function` of one array, with its convolutions brought into order; not to be differentiated.

    Elsewhere than on a CPU, and where there is no convolution, the function itself.
    """
    if jax.default_backend() != "cpu":
        return function
    rules = {"conv_general_dilated": _convolution}
    program = jax.make_jaxpr(function)(like)
    if not has_any(program.jaxpr, rules):
        return function
    return lambda argument: evaluate(program.jaxpr, program.consts, [argument], rules)[0]


def _convolution(lhs: Any, rhs: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    """The same convolution, of (samples, *places, channels) with (*places, in, out)."""
    numbers = dimension_numbers
    axes = range(2, lhs.ndim)

    def of(spec: Sequence[int], order: Sequence[int]) -> list[int]:
        return [spec[i] for i in order]

    lhs = lax.transpose(lhs, of(numbers.lhs_spec, (0, *axes, 1)))
    # A kernel's spec names (out, in, *places).
    rhs = lax.transpose(rhs, of(numbers.rhs_spec, (*axes, 1, 0)))
    columns = _as_columns(lhs, rhs, **params)
    if columns is None:
        places = "".join(chr(ord("a") + i) for i in range(len(axes)))
        order = (f"N{places}C", f"{places}IO", f"N{places}C")
        columns = lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides=params["window_strides"],
            padding=params["padding"],
            lhs_dilation=params["lhs_dilation"],
            rhs_dilation=params["rhs_dilation"],
            dimension_numbers=order,
            feature_group_count=params["feature_group_count"],
            batch_group_count=params["batch_group_count"],
            precision=params["precision"],
            preferred_element_type=params["preferred_element_type"],
        )
    # From (samples, *places, channels) to where the user has each of them.
    order = [0] * columns.ndim
    out = numbers.out_spec
    for source, target in zip((0, columns.ndim - 1, *range(1, columns.ndim - 1)), out, strict=True):
        order[target] = source
    return lax.transpose(columns, order)


def _as_columns(lhs: Any, rhs: Any, **params: Any) -> Any:
    """As one product with the columns of the input: in double, without groups or strides."""
    plain = (
        lhs.dtype == jnp.float64
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and all(
            step == 1
            for name in ("window_strides", "lhs_dilation", "rhs_dilation")
            for step in params[name]
        )
        and all(before >= 0 and after >= 0 for before, after in params["padding"])
    )
    if not plain:
        return None
    padded = jnp.pad(lhs, [(0, 0), *params["padding"], (0, 0)])
    *window, _, out = rhs.shape
    *others, last = window
    *rows, width = (n - w + 1 for n, w in zip(padded.shape[1:-1], window, strict=True))
    # Columns along the last axis alone, and a product for each shift along the others: a third of
    # the memory of all shifts together.
    ends = range(width, width + last)
    columns = [lax.slice_in_dim(padded, end - width, end, axis=-2) for end in ends]
    columns = jnp.concatenate(columns, axis=-1)
    total = jnp.zeros((), lhs.dtype)
    for start in itertools.product(*map(range, others)):
        end = [i + n for i, n in zip(start, rows, strict=True)]
        shifted = lax.slice(columns, (0, *start, 0, 0), (len(columns), *end, *columns.shape[-2:]))
        matrix = rhs[start].reshape(-1, out)
        total += lax.dot(shifted.reshape(-1, len(matrix)), matrix, precision=params["precision"])
    return total.reshape(len(lhs), *rows, width, out)
