"""The Jacobian penalty: its value and gradient against numpy, its estimate, training with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit

import irnn_jax as irnn
from tests.problems import (
    CHEAP,
    DIFFERENCES,
    NETWORKS,
    central_differences,
    connection_matrix,
    inputs,
    network,
    oscillator,
    reference_equilibrium,
    relative_error,
    squared_error,
    targets,
)


def reference_penalty(net, x, f=expit, slope=lambda y: y * (1 - y)):
    """||D A||_F^2 / n of each sample, from the slopes in terms of the activities."""
    D = slope(np.concatenate(reference_equilibrium(net, x, f), axis=-1))
    A = connection_matrix(net)
    return np.array([np.sum((d[:, None] * A) ** 2) / len(A) for d in D])


@pytest.mark.parametrize("name", ["one_layer", "two_layers", "partly_recurrent"])
def test_penalty_and_its_gradient_are_numpys(name):
    net = NETWORKS[name]
    x = inputs(net)
    weights = np.array([0.5, 1.0, -2.0])
    np.testing.assert_allclose(irnn.jacobian_penalty(net, x), reference_penalty(net, x), rtol=1e-12)

    def loss(net):
        return weights @ irnn.jacobian_penalty(net, x, solver=CHEAP)

    gradient = jax.jit(jax.grad(loss))(net)
    differences = central_differences(lambda net: weights @ reference_penalty(net, x), net)
    # A sum of n^2 squares has larger higher derivatives than the activities have.
    assert relative_error(gradient, differences) < 10 * DIFFERENCES


def test_penalty_of_another_activation_and_shape():
    net = network((2, 2, 1), scale=0.4, seed=1)
    x = inputs(net, batch=4)
    found = irnn.jacobian_penalty(net, x.reshape(2, 2, 2), activation=jnp.tanh)
    expected = reference_penalty(net, x, np.tanh, lambda y: 1 - y**2)
    np.testing.assert_allclose(found, expected.reshape(2, 2), rtol=1e-11)


def test_no_equilibrium_no_penalty():
    net = oscillator()
    x = jnp.array([[40.0, 40.0], [0.0, 0.0], [jnp.nan, 0.0]])
    penalty = functools.partial(irnn.jacobian_penalty, solver=CHEAP)
    values = penalty(net, x)
    assert values[0] > 0
    np.testing.assert_array_equal(values[1:], 0)
    gradient = jax.grad(lambda net: jnp.sum(penalty(net, x)))(net)
    alone = jax.grad(lambda net: jnp.sum(penalty(net, x[:1])))(net)
    assert relative_error(gradient, alone) < 1e-12


# --- the estimate -------------------------------------------------------------------------------


def cell(params, y, x):
    """A network of two layers as a cell, with a state in two pieces."""
    A, b = params
    total = A @ jnp.concatenate([y["hidden"], y["output"][0]]) + b + x
    return {"hidden": jax.nn.sigmoid(total[:2]), "output": jax.nn.sigmoid(total[2:])[None]}


def _cell_problem():
    rng = np.random.default_rng(0)
    params = (jnp.asarray(1.5 * rng.normal(size=(3, 3))), jnp.asarray(rng.normal(size=3)))
    y0 = {"hidden": jnp.zeros(2), "output": jnp.zeros((1, 1))}
    return params, jnp.asarray(rng.normal(size=3)), y0


def test_the_estimate_averages_to_the_penalty():
    params, x, y0 = _cell_problem()
    y = irnn.fixed_point(cell, params, x, y0, solver=CHEAP).activities
    estimate = functools.partial(irnn.jacobian_penalty_estimate, cell, params, x, y)
    Y = np.concatenate([y["hidden"], y["output"][0]])
    J = (Y * (1 - Y))[:, None] * np.asarray(params[0])
    exact = np.sum(J**2) / 3
    # Three signs have eight values, four up to a factor of -1: with many draws all come up.
    found = jax.jit(functools.partial(estimate, num_probes=4000))(jax.random.key(0))
    signs = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]])
    deviation = np.std(np.sum((signs @ J) ** 2, axis=1) / 3)
    assert abs(found - exact) < 5 * deviation / 4000**0.5
    with pytest.raises(ValueError, match="num_probes must be at least 1"):
        estimate(jax.random.key(0), num_probes=0)


def test_the_estimates_gradient_follows_the_equilibrium():
    params, x, y0 = _cell_problem()
    key = jax.random.key(1)

    @jax.jit
    def penalty(params):
        y = irnn.fixed_point(cell, params, x, y0, solver=CHEAP).activities
        return irnn.jacobian_penalty_estimate(cell, params, x, y, key, num_probes=2)

    gradient = jax.jit(jax.grad(penalty))(params)
    differences = central_differences(lambda p: penalty(jax.tree.map(jnp.asarray, p)), params)
    # Picard stops at 2e-12, which a step of 2e-3 turns into 1e-9.
    assert relative_error(gradient, differences) < 1e-7


# --- in the training step -----------------------------------------------------------------------


def test_a_step_with_a_penalty_is_the_numpy_step():
    net = NETWORKS["two_layers"]
    x, target = inputs(net), targets(net)
    optimizer = optax.sgd(1.0)
    step = irnn.make_train_step(irnn.squared_error, optimizer, penalty=0.3)
    state, metrics = step(irnn.TrainState.create(net, optimizer), (x, target))

    def task(net):
        return squared_error(reference_equilibrium(net, x)[-1], target)

    np.testing.assert_allclose(metrics.loss, task(net), rtol=1e-12)
    added = 0.3 * np.mean(reference_penalty(net, x))
    np.testing.assert_allclose(metrics.penalty, added, rtol=1e-12)
    differences = central_differences(
        lambda net: task(net) + 0.3 * np.mean(reference_penalty(net, x)), net
    )
    gradient = jax.tree.map(lambda before, after: before - after, net, state.net)
    assert relative_error(gradient, differences) < 10 * DIFFERENCES


def test_the_penalty_leaves_out_what_does_not_count():
    net = oscillator()
    resting = jnp.array([[40.0, 40.0], [-40.0, 40.0]])
    x = jnp.concatenate([resting, jnp.zeros((1, 2)), jnp.full((1, 2), jnp.nan)])
    target = jnp.full((4, 2), 0.3)
    optimizer = optax.sgd(0.1)
    step = irnn.make_train_step(irnn.squared_error, optimizer, penalty=1.0)
    state, metrics = step(irnn.TrainState.create(net, optimizer), (x, target))
    expected, healthy = step(irnn.TrainState.create(net, optimizer), (resting, target[:2]))
    assert float(metrics.converged) == 0.5
    np.testing.assert_allclose(metrics.penalty, healthy.penalty, rtol=1e-12)
    assert relative_error(state.net, expected.net) < 1e-12


def test_weights_of_the_penalty_are_vmapped_and_shrink_the_jacobian():
    net = NETWORKS["two_layers"]
    x, target = inputs(net), targets(net)
    optimizer = irnn.adam(0.01)

    def train(weight):
        step = irnn.make_train_step(irnn.squared_error, optimizer, solver=CHEAP, penalty=weight)
        state = irnn.TrainState.create(net, optimizer)
        return jax.lax.scan(lambda s, _: step(s, (x, target)), state, length=50)

    states, metrics = jax.jit(jax.vmap(train))(jnp.array([0.0, 1.0]))
    unpenalised = irnn.make_train_step(irnn.squared_error, optimizer, solver=CHEAP)
    state = irnn.TrainState.create(net, optimizer)
    _, expected = jax.jit(
        lambda s: jax.lax.scan(lambda s, _: unpenalised(s, (x, target)), s, length=50)
    )(state)
    np.testing.assert_allclose(metrics.loss[0], expected.loss, rtol=1e-10)
    np.testing.assert_array_equal(expected.penalty, 0)
    values = jax.vmap(lambda net: jnp.mean(irnn.jacobian_penalty(net, x)))(states.net)
    assert values[1] < 0.75 * values[0]
    assert values[1] < 0.75 * np.mean(reference_penalty(net, x))


def test_a_penalty_of_zero_costs_nothing():
    net = NETWORKS["one_layer"]
    optimizer = optax.sgd(0.1)
    state = irnn.TrainState.create(net, optimizer)
    batch = (inputs(net), targets(net))

    def program(**options):
        step = irnn.make_train_step(irnn.squared_error, optimizer, solver=CHEAP, **options)
        return str(jax.make_jaxpr(step)(state, batch))

    assert len(program(penalty=0.0)) == len(program())
    assert len(program(penalty=0.1)) > len(program())
    with pytest.raises(ValueError, match="penalty must be a number of at least 0"):
        program(penalty=-1.0)


@pytest.mark.usefixtures("strict_promotion")
def test_float32_stays_float32():
    net = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), NETWORKS["two_layers"])
    x, target = jnp.asarray(inputs(net), jnp.float32), jnp.asarray(targets(net), jnp.float32)
    assert irnn.jacobian_penalty(net, x, solver=CHEAP).dtype == jnp.float32
    optimizer = optax.sgd(0.1)
    # A float64 weight: it follows the network, not the other way round.
    step = irnn.make_train_step(
        irnn.squared_error, optimizer, solver=CHEAP, penalty=jnp.asarray(0.1, jnp.float64)
    )
    state, metrics = step(irnn.TrainState.create(net, optimizer), (x, target))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.net)} == {jnp.dtype("float32")}
    assert metrics.penalty.dtype == jnp.float32
    params, x, y0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), _cell_problem())
    estimate = irnn.jacobian_penalty_estimate(cell, params, x, y0, jax.random.key(0))
    assert estimate.dtype == jnp.float32
