"""Loops of runs side by side end together."""

import jax
import jax.numpy as jnp
import numpy as np

from irnn_jax.xla.loops import Plain


def _halve(rate, start):
    """Times the rate until below 1, with what is asked for in closures, of any dtype."""
    counted = rate < 1

    def advance(number, carry):
        value, steps = carry
        going = moving(carry)
        value = jnp.where(going, value * rate, value)
        return value, jnp.where(going & counted, number + 1, steps)

    def moving(carry):
        return carry[0] >= jnp.where(counted, 1.0, jnp.inf)

    return Plain().repeat(advance, (start, jnp.zeros(start.shape, jnp.int32)), moving, 20)


RATES = jnp.asarray([0.5, 0.25, 2.0])
STARTS = jnp.asarray([[8.0, 0.5, 1.0], [64.0, 16.0, 4.0], [5.0, 5.0, 5.0]])


def test_each_run_ends_where_it_would_alone():
    alone = [_halve(rate, start) for rate, start in zip(RATES, STARTS, strict=True)]
    together = jax.jit(jax.vmap(_halve))(RATES, STARTS)
    for run, (value, steps) in enumerate(alone):
        np.testing.assert_array_equal(together[0][run], value)
        np.testing.assert_array_equal(together[1][run], steps)
    assert together[1].tolist() == [[4, 0, 1], [4, 3, 2], [0, 0, 0]]


def test_any_argument_may_be_the_same_for_all_runs():
    over_rates = jax.vmap(_halve, (0, None))(RATES, STARTS[1])
    over_starts = jax.vmap(_halve, (None, 0))(RATES[0], STARTS)
    nested = jax.vmap(jax.vmap(_halve, (None, 0)), (0, None))(RATES, STARTS)
    np.testing.assert_array_equal(over_rates[0], nested[0][:, 1])
    np.testing.assert_array_equal(over_starts[1], nested[1][0])


def test_it_takes_no_more_than_it_is_given():
    value, steps = jax.vmap(_halve)(jnp.asarray([0.99, 0.5]), jnp.full((2, 3), 8.0))
    assert np.max(steps) == 20
    np.testing.assert_allclose(value[0], 8 * 0.99**20, rtol=1e-6)


def test_nothing_is_kept_by_a_selection_of_each_step():
    """As under `lax.while_loop`'s own rule, whose body has one for every array of the carry."""

    def doubled(start):
        advance = lambda _, value: 2 * value  # noqa: E731
        return Plain().repeat(advance, start, lambda value: value < 100, 20)

    program = str(jax.make_jaxpr(jax.vmap(doubled))(STARTS))
    assert "while" in program
    assert "select" not in program
