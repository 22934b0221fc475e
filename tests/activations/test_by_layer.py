"""An activation for each layer: against numpy, with gradients, wherever `activation=` is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import irnn_jax as irnn
from irnn_jax.activations import accurate_slope, as_activation, is_of_order_one, slope_bound
from tests.problems import (
    DIFFERENCES,
    central_differences,
    connection_matrix,
    inputs,
    network,
    relative_error,
    squared_error,
    targets,
)

FUNCTIONS = (jnp.tanh, jax.nn.softplus, jax.nn.sigmoid)
REFERENCE = (np.tanh, lambda u: np.logaddexp(u, 0), expit)
SLOPES = (lambda u: 1 / np.cosh(u) ** 2, expit, lambda u: expit(u) * expit(-u))


def _small(sizes, scale=0.5):
    """Recurrent weights of norm about `scale`, so that a plain iteration finds the equilibrium."""

    def smaller(weights):
        return weights / weights.shape[-1] ** 0.5

    return jax.tree.map(smaller, network(sizes, scale=scale))


def _by_numpy(net, x):
    """Preactivations and activities, stacked, (batch, n)."""
    A, sizes = connection_matrix(net), net.sizes[1:]
    ends = np.cumsum(sizes)[:-1]
    bias = np.concatenate([np.asarray(layer.bias) for layer in net.layers])
    b = np.tile(bias, (len(x), 1))
    b[:, : sizes[0]] += np.asarray(x) @ np.asarray(net.layers[0].feedforward).T
    y = np.zeros_like(b)
    for _ in range(400):
        parts = np.split(y @ A.T + b, ends, axis=1)
        new = [f(part) for f, part in zip(REFERENCE, parts, strict=True)]
        y = y + 0.7 * (np.concatenate(new, axis=1) - y)
    return np.split(y @ A.T + b, ends, axis=1), y


@pytest.mark.parametrize("sizes", [(2, 2, 3, 1), (3, 9, 6, 5), (3, 20, 30, 10)])
def test_each_layer_has_its_own(sizes):
    net = _small(sizes)
    x = inputs(net, batch=4)
    found = irnn.equilibrium(net, x, activation=FUNCTIONS)
    assert np.all(found.converged)
    _, right = _by_numpy(net, x)
    np.testing.assert_allclose(np.concatenate(found.activities, axis=1), right, atol=1e-10)


def test_gradients_and_derivatives():
    net = _small((2, 2, 3, 1))
    x, target = inputs(net), targets(net)

    def loss(net):
        return squared_error(irnn.apply(net, x, activation=FUNCTIONS), target)

    gradient = jax.jit(jax.grad(loss))(net)
    differences = central_differences(
        lambda net: squared_error(_by_numpy(net, x)[1][:, -1:], target), net
    )
    assert relative_error(gradient, differences) < DIFFERENCES
    preactivations, _ = _by_numpy(net, x)
    D = np.concatenate([s(u) for s, u in zip(SLOPES, preactivations, strict=True)], axis=1)
    A = connection_matrix(net)
    moving = D[:, :, None] * A
    stability = irnn.stability(net, x, activation=FUNCTIONS)
    right = np.linalg.eigvals(moving).real.max(axis=-1)
    np.testing.assert_allclose(stability.abscissa, right, atol=1e-9)
    penalty = irnn.jacobian_penalty(net, x, activation=FUNCTIONS)
    np.testing.assert_allclose(penalty, np.sum(moving**2, axis=(1, 2)) / 6, rtol=1e-9)
    jacobians = irnn.jacobians(net, x[0], activation=FUNCTIONS)
    rows = np.linalg.solve(np.eye(6) - moving[0], np.diag(D[0]))[-1:]
    np.testing.assert_allclose(jacobians.layers[1].bias, rows[:, 2:5], rtol=1e-8)


def test_a_training_step_and_the_feed_forward_pass():
    optimizer, twin = irnn.adam(0.01), network((2, 2, 3, 1), recurrent=False)
    step = irnn.make_train_step(irnn.squared_error, optimizer, activation=list(FUNCTIONS))
    x, target = inputs(twin), targets(twin)
    _, metrics = step(irnn.TrainState.create(twin, optimizer), (x, target))
    below = np.asarray(x)
    for f, layer in zip(REFERENCE, twin.layers, strict=True):
        below = f(below @ np.asarray(layer.feedforward).T + np.asarray(layer.bias))
    np.testing.assert_allclose(metrics.loss, squared_error(below, target), rtol=1e-12)


def test_equal_functions_are_one():
    assert as_activation((jnp.tanh, jnp.tanh), (3, 1)) is jnp.tanh
    laws = irnn.PowerLaw(gain=2.0), irnn.PowerLaw(gain=2)
    assert as_activation(laws, (3, 1)) == irnn.PowerLaw(gain=2.0)


def test_what_is_known_is_known_of_all_layers():
    of_order_one = as_activation((jnp.tanh, jax.nn.sigmoid), (1, 2))
    unbounded = as_activation((jnp.tanh, irnn.PowerLaw()), (1, 2))
    assert slope_bound(of_order_one) == 1
    assert slope_bound(unbounded) is None
    assert is_of_order_one(of_order_one)
    assert not is_of_order_one(unbounded)
    u = jnp.array([30.0, -30.0, 30.0])
    right = [4 * np.exp(-60), np.exp(-30), np.exp(-30)]
    np.testing.assert_allclose(accurate_slope(of_order_one, u), right, rtol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_wrong_number_of_functions_is_refused(count):
    net, functions = network((2, 2, 3, 1)), (jnp.tanh,) * count
    words = f"activation has {count} entr(y|ies), but the network has 3 layers"
    with pytest.raises(ValueError, match=words):
        irnn.equilibrium(net, inputs(net), activation=functions)
    with pytest.raises(ValueError, match=words):
        irnn.certify(net, activation=functions)


def test_one_function_of_several_is_refused_by_its_name():
    net = network((2, 2, 1))
    with pytest.raises(ValueError, match="activation softmax must be elementwise"):
        irnn.equilibrium(net, inputs(net), activation=(jnp.tanh, jax.nn.softmax))
