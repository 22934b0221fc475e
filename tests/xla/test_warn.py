"""A warning from inside of a compiled program."""

import warnings

import jax
import jax.numpy as jnp
import pytest

from irnn_jax.xla.warn import warn_where


def _doubled(failed):
    warn_where(failed, "{count} of them")
    return 2 * failed


def _called(function, *arguments):
    jax.block_until_ready(function(*arguments))
    jax.effects_barrier()


def test_what_vmap_adds_is_counted_together_by_one_callback():
    function = jax.jit(jax.vmap(jax.vmap(_doubled)))
    failed = jnp.zeros((4, 5, 3), bool).at[1, 2].set(True).at[3, 0, 1].set(True)
    assert function.lower(failed).as_text().count("callback(") == 1
    with pytest.warns(RuntimeWarning, match="^4 of them$") as caught:
        _called(function, failed)
    assert len(caught) == 1


@pytest.mark.parametrize("mapped", [False, True])
def test_nothing_is_said_of_nothing(mapped):
    function = jax.jit(jax.vmap(_doubled) if mapped else _doubled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _called(function, jnp.zeros((2, 3), bool))
