"""The library's own arithmetic under JAX's default rules of promotion.

It mixes precisions and ranks on purpose, and must also work for those who forbid that in their own
code (`jax_numpy_dtype_promotion="strict"`, `jax_numpy_rank_promotion="raise"`). Whatever is traced
later than its caller, a derivative rule above all, needs it again.
"""

import functools
from collections.abc import Callable
from typing import TypeVar, cast

import jax

Function = TypeVar("Function", bound=Callable)


def with_default_promotion(function: Function) -> Function:
    """`function`, in which operands are promoted as by default."""

    @functools.wraps(function)
    def call(*arguments, **keywords):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*arguments, **keywords)

    return cast(Function, call)
