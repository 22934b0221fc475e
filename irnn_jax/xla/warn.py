"""A warning from inside of a compiled program, at no cost while there is nothing to warn of."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from irnn_jax.xla.conditional import run_if


def warn_where(failed: Bool[Array, "*numbers"], message: str) -> None:
    """Warn at run time where any is true: `message`, in which `{count}` stands for how many.

    A program that calls back to Python cannot be exported, and no compilation cache keeps it: one
    with sizes that are left open, and all where a cache is asked for, go without the warning.
    """
    is_open = not all(isinstance(size, int) for size in failed.shape)
    if is_open or getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return

    def say(count: Any) -> None:
        warnings.warn(message.format(count=int(count)), RuntimeWarning, stacklevel=2)

    def call(done: Array, failed: Array) -> Array:
        jax.debug.callback(say, jnp.sum(failed))
        return done

    @jax.custom_batching.custom_vmap
    def warned(failed: Array) -> Array:
        return run_if(jnp.any(failed), call, jnp.zeros((), bool), failed)

    @warned.def_vmap
    def rule(size: int, in_batched: Any, failed: Array) -> tuple[Array, bool]:
        # All that `jax.vmap` adds is counted together: a callback is not batched but repeated, for
        # each direction of a Hessian, and a condition that differs is none.
        del in_batched
        # XLA's compiler does not survive a callback about nobody.
        return warned(failed) if size else jnp.zeros((), bool), False

    warned(failed)
