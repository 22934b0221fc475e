"""Activations without a bound: scale decides nothing, and a flow that runs away is flagged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from tests.problems import network


def _line(n: int, weight: float) -> irnn.Network:
    """n neurons, each with this weight to itself and the same input."""
    layer = irnn.Layer(feedforward=jnp.ones((n, 1)), lateral=weight * jnp.eye(n), bias=jnp.zeros(n))
    return irnn.Network(layers=(layer,))


@pytest.mark.parametrize("n", [1, 20, 130])
def test_a_flow_that_runs_away_is_flagged_and_no_neighbour_is_harmed(n):
    # Y = [2 Y + x]_+ rests at 0 for x <= 0, and else grows as e^t.
    x = jnp.array([[-1.0], [0.5], [-0.2]])

    def loss(net, x):
        found = irnn.equilibrium(net, x, activation=jax.nn.relu)
        return jnp.sum(found.activities[0]), found

    gradients, found = jax.grad(loss, argnums=(0, 1), has_aux=True)(_line(n, 2.0), x)
    np.testing.assert_array_equal(found.converged, [True, False, True])
    np.testing.assert_array_equal(found.activities[0][::2], 0)
    assert np.all(found.num_steps <= 10_000)
    for leaf in jax.tree.leaves(gradients):
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
@pytest.mark.parametrize("n", [1, 40])
def test_a_contracting_rectifier_is_solved_at_any_scale(n, scale):
    # Y = [Y/2 + x]_+ is 2 x for x > 0.
    x = scale * jnp.array([[1.0], [-1.0], [0.3]])

    def loss(x):
        found = irnn.equilibrium(_line(n, 0.5), x, activation=jax.nn.relu)
        return jnp.sum(found.activities[0]), found

    gradient, found = jax.grad(loss, has_aux=True)(x)
    assert np.all(found.converged)
    right = np.broadcast_to(2 * np.maximum(x, 0), (3, n))
    np.testing.assert_allclose(found.activities[0], right, rtol=1e-10)
    np.testing.assert_allclose(gradient, 2 * n * (x > 0), rtol=1e-10)


def test_a_certificate_knows_the_slopes_of_known_functions():
    net = network((2, 3, 2), scale=0.3)
    of_tanh = irnn.certify(net, slope_bound=1.0)
    for activation in (jax.nn.relu, jax.nn.softplus, (jax.nn.sigmoid, jax.nn.relu)):
        found = irnn.certify(net, activation=activation)
        np.testing.assert_array_equal(found.lyapunov_margin, of_tanh.lyapunov_margin)
    default, sigmoid = irnn.certify(net), irnn.certify(net, slope_bound=0.25)
    np.testing.assert_array_equal(default.row_sum_margin, sigmoid.row_sum_margin)
    doubled = irnn.certify(net, activation=irnn.PowerLaw(gain=2.0, power=1))
    np.testing.assert_allclose(1 - doubled.row_sum_margin, 2 * (1 - of_tanh.row_sum_margin))


@pytest.mark.parametrize(
    ("activation", "words"),
    [
        (irnn.PowerLaw(), r"certify cannot prove anything with PowerLaw\(.*slope has no bound"),
        ((jnp.tanh, irnn.PowerLaw()), "slope has no bound"),
        (jax.nn.gelu, "does not know the largest slope of the activation gelu: pass it as slope"),
    ],
)
def test_a_certificate_refuses_what_it_knows_no_bound_of(activation, words):
    with pytest.raises(ValueError, match=words):
        irnn.certify(network((2, 3, 2)), activation=activation)
