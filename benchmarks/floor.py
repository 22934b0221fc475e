"""The least a machine can do: operations and bytes of a cell, against what this machine achieves.

Counted for one sample and the cheaper of two ways: five factorisations of an n x n matrix, as a
Newton-like method has them, or twenty products with it, as an accelerated iteration has them. The
gradient adds the adjoint by the same way. Sigmoids are counted apart, at this machine's own rate.
Bytes are those that no method avoids: inputs once forwards and once backwards, weights and Adam's
moments read and written.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.regimes import Cell, Task

NEWTON_STEPS, PRODUCTS = 5, 20


class Machine(NamedTuple):
    """What this machine does at its best, in one dtype."""

    flops: float  # a second, in a product of square matrices
    bytes: float  # a second, read and written, in a copy
    sigmoids: float  # a second


class Count(NamedTuple):
    """What a cell takes, in one call."""

    flops: float
    bytes: float
    sigmoids: float

    def seconds(self, machine: Machine) -> float:
        """As if arithmetic and memory overlapped perfectly."""
        arithmetic = self.flops / machine.flops + self.sigmoids / machine.sigmoids
        return max(arithmetic, self.bytes / machine.bytes)


def machine(dtype: str) -> Machine:
    """Measured now: the best of a few rounds; the copy far beyond any cache."""
    size = 1536
    matrix = jnp.ones((size, size), dtype)
    return Machine(
        flops=2 * size**3 / _best(lambda m: m @ m, matrix),
        bytes=copy_rate(256e6, dtype),
        sigmoids=_rate(jax.nn.sigmoid, 1 << 15, 32, dtype),
    )


def copy_rate(working_set: float, dtype: str) -> float:
    """Bytes read and written a second where they come to this many: a small set stays in cache."""
    width = jnp.dtype(dtype).itemsize
    length = max(1024, int(working_set / 2 / width))
    repeats = max(1, int(64e6 / (length * width)))
    return 2 * width * _rate(lambda v: v + 1, length, repeats, dtype)


def _rate(function: Callable[[Any], Any], length: int, repeats: int, dtype: str) -> float:
    """Elements a second, in a compiled loop, so that dispatch costs nothing."""

    def loop(vector):
        return jax.lax.fori_loop(0, repeats, lambda _, v: function(v), vector)

    return length * repeats / _best(loop, jnp.zeros(length, dtype))


def _best(function: Callable[[Any], Any], argument: jax.Array) -> float:
    call = jax.jit(function)
    jax.block_until_ready(call(argument))
    seconds = []
    for _ in range(7):
        begin = time.perf_counter()
        jax.block_until_ready(call(argument))
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def count(cell: Cell, dtype: str) -> Count:
    """Operations and bytes of the cell."""
    n, inputs, hidden = cell.n, cell.sizes[0], cell.sizes[1]
    samples = cell.runs * cell.batch
    width = jnp.dtype(dtype).itemsize
    direct = 2 / 3 * n**3 + 2 * n**2
    forward = min(NEWTON_STEPS * direct, PRODUCTS * 2 * n**2)
    steps = NEWTON_STEPS if NEWTON_STEPS * direct < PRODUCTS * 2 * n**2 else PRODUCTS
    flops, passes = forward + 2 * inputs * hidden, 1
    if cell.task is not Task.FORWARD:
        # The adjoint, dL/dA = u y^T and dL/dQ = u x^T.
        flops += min(direct, PRODUCTS * 2 * n**2) + 2 * n**2 + 2 * inputs * hidden
        passes = 2
    weights = cell.runs * (inputs * hidden + n * (n + 1))
    touched = {Task.FORWARD: 1, Task.GRADIENT: 2, Task.TRAINING: 8}[cell.task]
    return Count(
        flops=samples * flops,
        bytes=width * (samples * (passes * inputs + n) + touched * weights),
        sigmoids=samples * steps * n,
    )


def seconds(cell: Cell, dtype: str, able: Machine) -> float:
    """The floor of a cell, its copy rate measured at its own size."""
    counted = count(cell, dtype)
    return counted.seconds(able._replace(bytes=copy_rate(counted.bytes, dtype)))
