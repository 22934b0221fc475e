"""The training step against numpy, runs against their steps, and XOR."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit

import irnn_jax as irnn
from irnn_jax.data import patterns
from tests.problems import (
    NETWORKS,
    inputs,
    leaves_by_group,
    network,
    oscillator,
    random_gradients,
    relative_error,
    targets,
)

NET = NETWORKS["two_layers"]
X, TARGET = inputs(NET), targets(NET)
RATES = {"feedforward": 0.01, "lateral": 0.003, "feedback": 0.02, "bias": 0.05}

# --- Adam by group ------------------------------------------------------------------------------


def _three_updates(optimizer: optax.GradientTransformation, params: Any, gradients: list) -> list:
    state, updates = optimizer.init(params), []
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, params)
        updates.append(update)
    return updates


@pytest.mark.parametrize("rates", [RATES, 0.01], ids=["by_group", "one_rate"])
@pytest.mark.parametrize("recurrent", [True, False])
def test_adam_is_one_adam_for_each_group(rates, recurrent):
    net = network((2, 2, 1), recurrent=recurrent)
    gradients = [random_gradients(net, seed) for seed in range(3)]
    updates = [leaves_by_group(u) for u in _three_updates(irnn.adam(rates), net, gradients)]
    for group, leaves in leaves_by_group(net).items():
        rate = rates[group] if isinstance(rates, dict) else rates
        own = [leaves_by_group(gradient)[group] for gradient in gradients]
        for update, expected in zip(
            updates, _three_updates(optax.adam(rate), leaves, own), strict=True
        ):
            # The same operations on the same numbers.
            assert relative_error(update[group], expected) < 1e-15


def test_adam_takes_schedules_and_leaves_out_groups_that_a_network_lacks():
    rates = {"feedforward": optax.linear_schedule(0.1, 0.0, 2), "bias": 0.01}
    twin = network((2, 2), recurrent=False)
    ones = jax.tree.map(jnp.ones_like, twin)
    first, second, third = _three_updates(irnn.adam(rates), twin, [ones] * 3)
    # Adam's update for a constant gradient is minus the rate.
    for update, rate in ((first, 0.1), (second, 0.05), (third, 0.0)):
        np.testing.assert_allclose(update.layers[0].feedforward, -rate, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(update.layers[0].bias, -0.01, rtol=1e-6)


# --- one step -----------------------------------------------------------------------------------


def _numpy_step(net: irnn.Network, x: Any, target: Any, rate: float) -> tuple[list, float, float]:
    """Picard's equilibrium, the adjoint by a linear solve, and Adam's first step.

    Returns the new Q, W and T, the loss and the norm of the gradient.
    """
    Q, W, T = map(np.asarray, net.layers[0])
    x, target = np.asarray(x), np.asarray(target)
    Y = np.zeros((len(x), len(T)))
    for _ in range(300):
        Y = expit(Y @ W.T + x @ Q.T + T)
    D = Y * (1 - Y)
    g = 2 * (Y - target) / Y.size
    one = np.eye(len(T))
    adjoints = [np.linalg.solve(one - (d[:, None] * W).T, c) for d, c in zip(D, g, strict=True)]
    u = D * np.stack(adjoints)
    gradient = [u.T @ x, u.T @ Y, u.sum(axis=0)]
    # Adam's bias correction leaves the sign of the gradient: -rate g / (|g| + eps).
    new = [p - rate * d / (np.abs(d) + 1e-8) for p, d in zip((Q, W, T), gradient, strict=True)]
    norm = np.sqrt(sum(np.sum(d**2) for d in gradient))
    return new, float(np.mean((Y - target) ** 2)), float(norm)


def test_a_step_is_the_numpy_step():
    net = NETWORKS["one_layer"]
    x, target = inputs(net), targets(net)
    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    state, metrics = step(irnn.TrainState.create(net, optimizer), (x, target))
    expected, loss, norm = _numpy_step(net, x, target, 0.01)
    assert relative_error(list(state.net.layers[0]), expected) < 1e-12
    np.testing.assert_allclose(metrics.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(metrics.gradient_norm, norm, rtol=1e-12)
    assert int(state.step) == 1
    result = irnn.equilibrium(net, x)
    np.testing.assert_allclose(metrics.mean_steps, np.mean(result.num_steps))
    assert int(metrics.max_steps) == int(np.max(result.num_steps))
    assert float(metrics.converged) == float(metrics.adjoint_converged) == 1
    assert 0 <= float(metrics.adjoint_residual) < 1e-14
    assert bool(metrics.applied)


def test_a_step_takes_the_mean_over_the_samples_that_converged():
    net = oscillator()
    resting = jnp.array([[40.0, 40.0], [-40.0, 40.0]])
    x = jnp.concatenate([resting, jnp.zeros((2, 2))])
    target = jnp.full((4, 2), 0.3)
    optimizer = optax.sgd(0.1)
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    state, metrics = step(irnn.TrainState.create(net, optimizer), (x, target))
    expected, healthy = step(irnn.TrainState.create(net, optimizer), (resting, target[:2]))
    assert float(metrics.converged) == 0.5
    np.testing.assert_allclose(metrics.loss, healthy.loss, rtol=1e-14)
    np.testing.assert_allclose(metrics.gradient_norm, healthy.gradient_norm, rtol=1e-12)
    assert relative_error(state.net, expected.net) < 1e-14
    assert int(metrics.max_steps) > int(healthy.max_steps)
    assert float(metrics.adjoint_converged) == 1


def test_a_step_reports_adjoints_that_fail():
    # At X = 0 the slope of tanh is one, and with W = 1 the adjoint singular; at 1 all is well.
    one = jnp.ones((1, 1))
    net = irnn.Network(layers=(irnn.Layer(feedforward=one, lateral=one, bias=jnp.zeros(1)),))
    optimizer = optax.sgd(0.1)
    step = irnn.make_train_step(
        irnn.squared_error, optimizer, activation=jnp.tanh, check_stability=False
    )
    batch = (jnp.array([[0.0], [1.0]]), jnp.full((2, 1), 0.3))
    state, metrics = step(irnn.TrainState.create(net, optimizer), batch)
    assert float(metrics.converged) == 1
    assert float(metrics.adjoint_converged) == 0.5
    assert not metrics.adjoint_residual <= 1e-8
    assert bool(metrics.applied)
    assert np.all(np.isfinite(state.net.layers[0].bias))


def test_losses_and_targets_of_any_shape():
    def loss(output, target):
        return jnp.sum(target["weight"] * (output - target["value"]) ** 2)

    optimizer = optax.sgd(1.0)
    step = irnn.make_train_step(loss, optimizer, gradient=irnn.SemiGradient())
    x = jnp.concatenate([X, X]).reshape(2, 3, 2)
    target = {"weight": jnp.arange(6.0).reshape(2, 3), "value": jnp.full((2, 3, 1), 0.3)}
    state, metrics = step(irnn.TrainState.create(NET, optimizer), (x, target))

    def batch_loss(net):
        y = irnn.apply(net, x, gradient=irnn.SemiGradient())
        return jnp.mean(target["weight"] * (y[..., 0] - 0.3) ** 2)

    value, gradient = jax.value_and_grad(batch_loss)(NET)
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-14)
    expected = jax.tree.map(lambda p, d: p - d, NET, gradient)
    assert relative_error(state.net, expected) < 1e-14


# --- runs ---------------------------------------------------------------------------------------

OPTIMIZER = irnn.adam(0.01)
STEP = irnn.make_train_step(irnn.squared_error, OPTIMIZER)


def _sample(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = jax.random.normal(key, (3, 2))
    return x, jax.nn.sigmoid(x[:, :1])


def _states(seeds: tuple[int, ...]) -> irnn.TrainState:
    states = [irnn.TrainState.create(network((2, 2, 1), seed=seed), OPTIMIZER) for seed in seeds]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


_fit = functools.partial(irnn.fit, step=STEP, sample=_sample, num_steps=4)
KEYS = jax.random.split(jax.random.key(5), 2)


def test_fit_is_a_loop_of_steps():
    states, metrics = _fit(_states((7, 1)), KEYS, num_epochs=2)
    assert {leaf.shape for leaf in metrics} == {(2, 2, 4)}
    np.testing.assert_array_equal(states.step, [8, 8])
    for run, seed in enumerate((7, 1)):
        state = irnn.TrainState.create(network((2, 2, 1), seed=seed), OPTIMIZER)
        losses = []
        for _ in range(2):
            keys = jax.random.split(jax.random.fold_in(KEYS[run], state.step), 4)
            for key in keys:
                state, step_metrics = STEP(state, _sample(key))
                losses.append(step_metrics.loss)
        # The same steps compiled apart: rounding, which Adam magnifies where gradients are small.
        np.testing.assert_allclose(metrics.loss[run].ravel(), losses, rtol=1e-10)
        own = jax.tree.map(lambda leaf, run=run: leaf[run], states.net)
        assert relative_error(own, state.net) < 1e-9


def test_a_run_in_chunks_is_the_run_in_one():
    whole, metrics = _fit(_states((7, 1)), KEYS, num_epochs=2)
    half, first = _fit(_states((7, 1)), KEYS, num_epochs=1)
    chunked, second = _fit(half, KEYS, num_epochs=1)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(metrics.loss[:, :1], first.loss)
    np.testing.assert_array_equal(metrics.loss[:, 1:], second.loss)


def test_fit_gives_the_old_buffers_away():
    states = _states((7, 1))
    _fit(states, KEYS, num_epochs=1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(states.net))


def test_run_epoch_is_one_run_of_fit():
    states, metrics = _fit(_states((7, 1)), KEYS, num_epochs=1)
    state = irnn.TrainState.create(network((2, 2, 1), seed=7), OPTIMIZER)
    epoch = jax.jit(functools.partial(irnn.run_epoch, step=STEP, sample=_sample, num_steps=4))
    state, own = epoch(state, KEYS[0])
    np.testing.assert_allclose(own.loss, metrics.loss[0, 0], rtol=1e-10)
    expected = jax.tree.map(lambda leaf: leaf[0], states.net)
    assert relative_error(state.net, expected) < 1e-9


# --- XOR ----------------------------------------------------------------------------------------


def _train_xor(*, recurrent: bool, num_steps: int) -> np.ndarray:
    """The mean squared error of Y1 on the four patterns, for each of 20 seeds."""
    x, target = patterns()

    def loss(output, target):
        return jnp.mean((output[0] - target[0]) ** 2)

    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(loss, optimizer)

    def create(key: jax.Array) -> irnn.TrainState:
        return irnn.TrainState.create(irnn.init(key, (2, 2), recurrent=recurrent), optimizer)

    keys = jax.random.split(jax.random.key(0), 20)
    states, _ = irnn.fit(
        jax.vmap(create)(keys),
        keys,
        step=step,
        sample=lambda key: (x, target),
        num_epochs=1,
        num_steps=num_steps,
    )
    outputs = jax.vmap(lambda net: irnn.apply(net, x))(states.net)
    return np.mean((outputs[:, :, 0] - target[:, 0]) ** 2, axis=1)


def test_xor_is_learnt_by_two_recurrent_neurons():
    # Not by all: training walks over folds, where the equilibrium jumps.
    assert np.sum(_train_xor(recurrent=True, num_steps=1000) < 0.01) >= 17


def test_xor_is_beyond_a_layer_without_recurrent_weights():
    # 1/4 is what the constant answer 1/2 costs, and the best that one neuron can do.
    errors = _train_xor(recurrent=False, num_steps=1000)
    assert np.all(errors > 0.2)


# --- any optimiser of optax ---------------------------------------------------------------------

ANY = {
    "adam without eps": optax.adam(1e-2, eps=0.0),
    "rmsprop without eps": optax.rmsprop(1e-2, eps=0.0),
    "normalised": optax.chain(optax.normalize_by_update_norm(), optax.sgd(1e-2)),
    "lbfgs": optax.lbfgs(),
    "polyak": optax.polyak_sgd(max_learning_rate=0.1),
    "plateau": optax.chain(optax.sgd(1e-2), optax.contrib.reduce_on_plateau(patience=1)),
}


@pytest.mark.parametrize("name", ANY)
def test_parameters_stay_numbers_with_any_optimiser(name):
    optimizer = ANY[name]
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    start = irnn.TrainState.create(irnn.init(jax.random.key(0), sizes=(3, 4, 2)), optimizer)
    target = jnp.full((5, 2), 0.3)
    # A first batch without one usable sample, and some that can be learnt.
    state, metrics = step(start, (jnp.full((5, 3), jnp.nan), target))
    assert metrics.converged == 0
    losses = []
    for _ in range(5):
        state, metrics = step(state, (jnp.ones((5, 3)), target))
        losses.append(float(metrics.loss))
    for leaf in jax.tree.leaves((state.net, state.opt_state)):
        assert np.all(np.isfinite(np.asarray(leaf, float)))
    assert np.all(np.isfinite(losses))
    assert metrics.applied
    assert losses[-1] < losses[0]


def test_what_would_not_be_a_number_is_not_taken_and_counted():
    optimizer = optax.adam(1e-2, eps=0.0)
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    start = irnn.TrainState.create(irnn.init(jax.random.key(0), sizes=(3, 4, 2)), optimizer)
    state, metrics = step(start, (jnp.full((5, 3), jnp.nan), jnp.full((5, 2), 0.3)))
    assert not metrics.applied
    for a, b in zip(*map(jax.tree.leaves, (state.net, start.net)), strict=True):
        np.testing.assert_array_equal(a, b)
