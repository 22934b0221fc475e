"""A linear read-out: what it computes, its gradient, its group, and that it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import irnn_jax as irnn
from irnn_jax.networks.groups import GROUPS, parameter_groups


def dense():
    net = irnn.init(jax.random.key(0), (4, 5))
    rng = np.random.default_rng(0)
    net = jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape), net)
    return irnn.with_readout(jax.random.key(1), net, 3)


def convolutional():
    net = irnn.conv.init(jax.random.key(0), (6, 6, 1), (2, 4), strides=(1, 2))
    return irnn.with_readout(jax.random.key(1), net, 3)


MODELS = {"dense": (dense, (4,)), "convolutional": (convolutional, (6, 6, 1))}


def inputs(shape, *batch):
    return jnp.asarray(np.random.default_rng(1).normal(size=(*batch, *shape)))


@pytest.mark.parametrize("name", MODELS)
def test_it_reads_the_last_layer(name):
    make, shape = MODELS[name]
    model = make()
    x = inputs(shape, 2, 3)
    features = irnn.equilibrium(model, x).activities[-1]
    if name == "convolutional":
        features = features.mean((-3, -2))
    expected = features @ model.weight.T + model.bias
    np.testing.assert_allclose(irnn.apply(model, x), expected, rtol=1e-12)
    assert irnn.apply(model, x[0, 0]).shape == (3,)


@pytest.mark.parametrize("name", MODELS)
def test_its_gradient_is_that_of_central_differences(name):
    make, shape = MODELS[name]
    model, x = make(), inputs(shape, 2)
    rng = np.random.default_rng(3)
    way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), model)

    @jax.jit
    def loss(h):
        moved = jax.tree.map(lambda leaf, d: leaf + h * d, model, way)
        return jnp.sum(jnp.sin(irnn.apply(moved, x)))

    # Of fourth order: the error of the equilibria is divided by a larger step.
    h = 1e-3
    slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    np.testing.assert_allclose(jax.grad(loss)(0.0), slope, rtol=1e-7)


def test_it_has_a_group_of_its_own():
    groups = parameter_groups(dense())
    assert set(jax.tree.leaves(groups)) == {"feedforward", "lateral", "bias", "readout"}
    groups = parameter_groups(convolutional())
    assert set(jax.tree.leaves(groups)) == set(GROUPS)


@pytest.mark.parametrize("name", MODELS)
def test_classes_are_learnt_from_logits(name):
    make, shape = MODELS[name]
    model, x = make(), inputs(shape, 6)
    target = jnp.arange(6) % 3
    optimizer = irnn.adam(0.05)

    def loss(logits, label):
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    step = irnn.make_train_step(loss, optimizer)
    state = irnn.TrainState.create(model, optimizer)
    state, first = step(state, (x, target))
    metrics = first
    for _ in range(120):
        state, metrics = step(state, (x, target))
    assert metrics.converged == 1
    assert metrics.loss < 0.5 * first.loss
    assert state.net.weight.shape == model.weight.shape


def test_what_does_not_fit_is_refused():
    model = dense()
    with pytest.raises(ValueError, match="outputs must be at least 1"):
        irnn.with_readout(jax.random.key(0), model.net, 0)
    wrong = model._replace(weight=jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="the read-out takes 4 features, but the network's last"):
        irnn.apply(wrong, inputs((4,), 2))
