"""What a norm of the weights proves, and that nothing is followed where nothing need be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax.networks.contraction import contracts
from tests.problems import some_sigmoid

SAMPLES = 40


def _network(key: jax.Array, gain: float, hidden: int = 8, dtype: Any = jnp.float64) -> Any:
    """Recurrent weights of standard deviation gain/sqrt(n): their norm is nearly twice the gain."""
    net = irnn.init(key, (4, hidden, 2), dtype=dtype)
    recurrent = ("lateral", "feedback")
    keys = iter(jax.random.split(key, 10))
    size = gain / np.sqrt(hidden + 2)

    def drawn(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if any(word in name for word in recurrent):
            return size * jax.random.normal(next(keys), leaf.shape, dtype)
        return leaf

    return jax.tree_util.tree_map_with_path(drawn, net)


def _inputs(key: jax.Array, dtype: Any = jnp.float64) -> jax.Array:
    return 3 * jax.random.normal(key, (SAMPLES, 4), dtype)


@pytest.mark.parametrize("n", [1, 2, 7, 32])
@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0, 4.0, 20.0])
def test_only_contractions_are_said_to_contract(getkey, n: int, gain: float):
    matrices = gain / np.sqrt(n) * jax.random.normal(getkey(), (50, n, n))
    said = jax.vmap(lambda a: contracts(a, jax.nn.sigmoid, 6))(matrices)
    norms = np.linalg.norm(np.asarray(matrices), ord=2, axis=(1, 2)) / 4
    assert np.all(norms[np.asarray(said)] < 1)
    # The bound is at most n^(1/8) too large.
    assert np.all(np.asarray(said)[norms < 0.99 * n ** (-1 / 8)])


@pytest.mark.parametrize(("activation", "slope"), [(jax.nn.sigmoid, 0.25), (jnp.tanh, 1.0)])
def test_the_bound_is_sharp_for_one_direction(getkey, activation: Any, slope: float):
    left, right = (v / jnp.linalg.norm(v) for v in jax.random.normal(getkey(), (2, 7)))
    rank_one = jnp.outer(left, right) / slope
    assert contracts(0.998 * rank_one, activation, 6)
    assert not contracts(1.0 * rank_one, activation, 6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_what_is_not_finite_does_not_contract(bad: float):
    assert not contracts(jnp.zeros((3, 3)).at[0, 1].set(bad), jax.nn.sigmoid, 6)


def test_nothing_is_claimed_where_nothing_is_known():
    assert contracts(jnp.zeros((3, 3)), some_sigmoid, 6) is None
    assert contracts(jnp.zeros((33, 33)), jax.nn.sigmoid, 8) is None
    assert contracts(jnp.zeros((33, 33)), jax.nn.sigmoid, 9) is not None
    assert contracts(jnp.zeros((257, 257)), jax.nn.sigmoid, 64) is None
    assert contracts(jnp.zeros((257, 257)), jax.nn.sigmoid, 65) is not None


@pytest.mark.parametrize(
    ("solver", "hidden", "dtype"),
    [
        (irnn.PseudoTransient(), 3, jnp.float64),
        pytest.param(irnn.PseudoTransient(), 8, jnp.float32, marks=pytest.mark.slow),
        (irnn.PseudoTransient(), 30, jnp.float64),
        pytest.param(irnn.InChunks(width=16), 8, jnp.float64, marks=pytest.mark.slow),
        (irnn.InChunks(width=16), 3, jnp.float32),
    ],
    ids=str,
)
def test_a_step_or_two_reach_the_only_equilibrium(getkey, solver: Any, hidden: int, dtype: Any):
    net, x = _network(getkey(), 1.0, hidden, dtype), _inputs(getkey(), dtype)
    found = irnn.equilibrium(net, x, solver=solver)
    followed = irnn.equilibrium(net, x, solver=irnn.Flow())
    assert np.all(found.converged)
    # Newton's method alone would take two, were it not for the evaluations before it.
    assert np.max(found.num_steps) <= 2
    assert np.mean(found.num_steps) < 1.5
    digits = 1e-10 if dtype == jnp.float64 else 1e-5
    np.testing.assert_allclose(found.activities[-1], followed.activities[-1], rtol=0, atol=digits)


def test_the_exponential_method_follows_nothing_either(getkey):
    net, x = _network(getkey(), 1.0, 30), _inputs(getkey())
    found = irnn.equilibrium(net, x, solver=irnn.Exponential())
    expected = irnn.equilibrium(net, x)
    assert np.all(found.converged)
    np.testing.assert_allclose(found.activities[-1], expected.activities[-1], rtol=0, atol=1e-10)
    # The same weights times four: the flow is followed before it is accelerated.
    strong = irnn.equilibrium(_network(getkey(), 4.0, 30), x, solver=irnn.Exponential())
    assert np.mean(found.num_steps) < 0.7 * np.mean(strong.num_steps)


@pytest.mark.parametrize("solver", [irnn.PseudoTransient(), irnn.InChunks(width=16)], ids=str)
def test_networks_side_by_side_are_judged_one_by_one(getkey, solver: Any):
    nets = [_network(getkey(), gain) for gain in (1.0, 20.0, 0.5)]
    x = _inputs(getkey())

    def solve(net: Any) -> irnn.Equilibrium:
        return irnn.equilibrium(net, x, solver=solver)

    together = jax.vmap(solve)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets))
    for i, net in enumerate(nets):
        alone = solve(net)
        np.testing.assert_array_equal(together.num_steps[i], alone.num_steps)
        np.testing.assert_allclose(together.activities[-1][i], alone.activities[-1], atol=1e-11)
    assert np.max(together.num_steps[0]) <= 2 < np.mean(together.num_steps[1])


def test_unknown_activations_are_followed(getkey):
    net, x = _network(getkey(), 1.0), _inputs(getkey())
    known = irnn.equilibrium(net, x)
    unknown = irnn.equilibrium(net, x, activation=some_sigmoid)
    assert np.mean(unknown.num_steps) > np.max(known.num_steps)
    np.testing.assert_allclose(known.activities[-1], unknown.activities[-1], atol=1e-11)


def test_strong_weights_begin_where_they_did(getkey):
    """Without a proof not even the first evaluation of the map is taken for granted."""
    net, x = _network(getkey(), 20.0), _inputs(getkey())
    known = irnn.equilibrium(net, x)
    unknown = irnn.equilibrium(net, x, activation=some_sigmoid)
    np.testing.assert_array_equal(known.num_steps, unknown.num_steps)
    np.testing.assert_allclose(known.activities[-1], unknown.activities[-1], atol=1e-13)
