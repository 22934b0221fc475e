"""Loops over a handful of neurons, compiled into one function on a CPU.

XLA calls each fused operation of a loop as a function of its own, half a microsecond each, and a
step of a solver has some 45 of them: for a hundred samples of seven neurons that takes longer than
the arithmetic. It makes one function of loops below a kilobyte, and of calls that are said to be
small. So a small solve is said to be one. That is XLA's own word for it, without a promise: a
version that does not know it ignores it.
"""

import functools
from collections.abc import Callable
from typing import TypeVar, cast

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from irnn_jax.xla.device import on_one_cpu
from irnn_jax.xla.tuning import BLOCKS_UP_TO, ONE_FUNCTION_UP_TO

Function = TypeVar("Function", bound=Callable)

# Not to be dissolved into its caller, and to be compiled as one.
AS_ONE = {"inlineable": "false", "xla_cpu_small_call": "true"}
NOT_INSIDE = dict.fromkeys(AS_ONE)


def as_one_function(function: Function) -> Function:
    """`function` of arrays, samples last, compiled into one where they are few and small.

    Of arithmetic, loops and sums alone: XLA fails where it meets a library's function, a sort or a
    scatter. Elsewhere than on one CPU, the function itself.
    """

    @functools.wraps(function)
    def call(*arguments):
        if not on_one_cpu() or not all(map(_is_small, jax.tree.leaves(arguments))):
            return function(*arguments)

        @jax.jit
        def inner(*arguments):
            # What it calls is dissolved into it as ever.
            with set_xla_metadata(**NOT_INSIDE):
                return function(*arguments)

        with set_xla_metadata(**AS_ONE):
            return inner(*arguments)

    return cast(Function, call)


def _is_small(of: jax.Array) -> bool:
    known = all(isinstance(size, int) for size in of.shape)
    few = all(size <= BLOCKS_UP_TO for size in of.shape[:-1])
    return known and few and of.size <= ONE_FUNCTION_UP_TO
