"""Dale's law: where a network starts, that no parameters break it, and that it learns."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import irnn_jax as irnn
from irnn_jax.networks.groups import parameter_groups
from tests.problems import CHEAP, central_differences, inputs, network, relative_error, targets

SIZES = (2, 4, 3, 2)
KINDS = ((True, True, False, True), (False, True, True), (True, False))
SKIPS = {"0->3": (2, 2), "1->3": (2, 4), "3->1": (4, 2)}


def with_skips(net: irnn.Network, seed: int = 2) -> irnn.Network:
    rng = np.random.default_rng(seed)
    skips: Any = {key: jnp.asarray(0.5 * rng.normal(size=s)) for key, s in SKIPS.items()}
    return net._replace(skips=skips)


PLAIN = with_skips(network(SIZES, scale=0.5))


def signs(layer: int) -> np.ndarray:
    return np.where(KINDS[layer - 1], 1, -1)


def by_hand(net: Any) -> irnn.Network:
    """Each matrix's magnitudes with a sign for each column."""
    layers = [net.layers[0]]
    layers += [
        layer._replace(feedforward=abs(layer.feedforward) * signs(i))
        for i, layer in enumerate(net.layers[1:], 1)
    ]
    layers = [
        layer._replace(lateral=abs(layer.lateral) * signs(i)) for i, layer in enumerate(layers, 1)
    ]
    feedback = tuple(abs(R) * signs(i) for i, R in enumerate(net.feedback, 2))
    skips = {
        "0->3": net.skips["0->3"],
        "1->3": abs(net.skips["1->3"]) * signs(1),
        "3->1": abs(net.skips["3->1"]) * signs(3),
    }
    return irnn.Network(layers=tuple(layers), feedback=feedback, skips=skips)


def loss(net: Any, x: Any) -> Any:
    return jnp.mean((irnn.apply(net, x, solver=CHEAP) - targets(PLAIN)) ** 2)


def test_the_start_has_the_weights_magnitudes_and_the_laws_signs():
    net = irnn.dale(PLAIN, tuple(np.array(kinds) for kinds in KINDS))
    assert relative_error(net.network(), by_hand(PLAIN)) == 0
    # What obeys already stays, however often.
    assert relative_error(irnn.dale(net.network(), KINDS).network(), net.network()) == 0


@pytest.mark.parametrize(("share", "excitatory"), [(0.0, 0), (0.5, 2), (0.8, 3), (1.0, 4)])
def test_a_share_of_each_layer_is_excitatory(share, excitatory):
    net = irnn.init(
        jax.random.key(0), (3, 4, 2), parametrization=irnn.Dale(excitatory=share, inputs=share)
    ).network()
    plain = irnn.init(jax.random.key(0), (3, 4, 2))
    np.testing.assert_array_equal(
        np.sign(net.layers[1].feedforward), [[1] * excitatory + [-1] * (4 - excitatory)] * 2
    )
    np.testing.assert_array_equal(abs(net.layers[1].feedforward), abs(plain.layers[1].feedforward))
    np.testing.assert_array_equal(net.layers[0].lateral, np.zeros((4, 4)))
    np.testing.assert_array_equal(net.layers[0].bias, plain.layers[0].bias)
    of_inputs = np.sign(net.layers[0].feedforward[0])
    assert np.sum(of_inputs > 0) == int(3 * share + 0.5)


@given(size=st.floats(0.01, 10.0), seed=st.integers(0, 2**16))
def test_no_parameters_break_the_law(size, seed):
    rng = np.random.default_rng(seed)
    net: Any = irnn.dale(PLAIN, KINDS, inputs=(False, True))
    net = jax.tree.map(lambda leaf: leaf + size * rng.normal(size=leaf.shape), net).network()
    leaving: Any = {
        0: [net.layers[0].feedforward, net.skips["0->3"]],
        1: [net.layers[0].lateral, net.layers[1].feedforward, net.skips["1->3"]],
        2: [net.layers[1].lateral, net.layers[2].feedforward, net.feedback[0]],
        3: [net.layers[2].lateral, net.feedback[1], net.skips["3->1"]],
    }
    for layer, matrices in leaving.items():
        sign = np.array([-1, 1]) if layer == 0 else signs(layer)
        assert np.all(np.concatenate(matrices) * sign > 0)


def test_gradients_are_central_differences_and_those_of_the_weights():
    net = irnn.dale(PLAIN, KINDS)
    # On both branches of |theta|.
    flipped = jax.tree.map(lambda leaf: leaf * np.resize([1, -1, 1], leaf.shape), net)
    x = inputs(PLAIN)
    gradient = jax.grad(loss)(flipped, x)
    function = jax.jit(functools.partial(loss, x=x))
    assert relative_error(gradient, central_differences(function, flipped, step=5e-4)) < 1e-6
    of_weights = jax.grad(loss)(flipped.network(), x)
    theta = of_weights.layers[0].lateral * signs(1) * np.resize([1, -1, 1], (4, 4))
    np.testing.assert_allclose(gradient.theta.layers[0].lateral, theta, rtol=1e-10)


def test_weights_of_zero_learn_from_their_first_step():
    net = irnn.init(jax.random.key(0), (2, 3, 2), parametrization=irnn.Dale(excitatory=0.67))
    x = inputs(network((2, 3, 2)))
    of_weights = jax.grad(lambda n: jnp.sum(irnn.apply(n, x, solver=CHEAP) ** 2))(net.network())
    of_theta = jax.grad(lambda n: jnp.sum(irnn.apply(n, x, solver=CHEAP) ** 2))(net)
    # The derivative from the right: the sign of the source.
    signs = np.array([1, 1, -1])
    np.testing.assert_allclose(
        of_theta.theta.layers[0].lateral, of_weights.layers[0].lateral * signs, rtol=1e-12
    )
    assert np.all(of_theta.theta.layers[0].lateral != 0)
    assert np.all(of_theta.theta.feedback[0] != 0)


def test_the_groups_are_those_of_the_weights():
    net = irnn.dale(PLAIN, KINDS)
    groups: Any = parameter_groups(net)
    assert jax.tree.structure(groups) == jax.tree.structure(net)
    assert groups.theta == parameter_groups(PLAIN)


def test_masked_runs_under_the_law_are_trained():
    optimizer = irnn.adam(0.05)
    step = irnn.make_train_step(irnn.squared_error, optimizer, solver=CHEAP, guard=None)

    def start(key):
        net: Any = irnn.init(key, (2, 4, 1), parametrization=irnn.Dale(excitatory=0.5))
        return irnn.TrainState.create(irnn.masked(net, irnn.no_self_connections(net)), optimizer)

    states = jax.vmap(start)(jax.random.split(jax.random.key(0), 3))
    batch = inputs(network((2, 1))), targets(network((2, 1)))
    many = jax.jit(jax.vmap(step, in_axes=(0, None)))
    losses = []
    for _ in range(20):
        states, metrics = many(states, batch)
        losses.append(metrics.loss)
    assert np.all(losses[-1] < losses[0])
    lateral = np.asarray(jax.vmap(lambda net: net.network())(states.net).layers[0].lateral)
    assert np.all(lateral[:, np.eye(4, dtype=bool)] == 0)
    assert np.all(lateral[:, ~np.eye(4, dtype=bool)] != 0)
    assert np.all(lateral[:, :, :2] >= 0)
    assert np.all(lateral[:, :, 2:] <= 0)


def test_the_strategy_is_hashable():
    arrays = irnn.Dale(excitatory=tuple(np.array(kinds) for kinds in KINDS), inputs=(True, False))
    assert arrays == irnn.Dale(excitatory=KINDS, inputs=(True, False))
    assert hash(arrays) == hash(irnn.Dale(excitatory=KINDS, inputs=(True, False)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: irnn.Dale(excitatory=1.2), "excitatory must be a share between 0 and 1, got 1.2"),
        (lambda: irnn.Dale(inputs=-1), "inputs must be a share between 0 and 1, got -1"),
        (lambda: irnn.Dale(excitatory=True), "excitatory is a bool, but a share or a tuple"),
        (lambda: irnn.Dale(excitatory=(np.array([1, -1]),)), r"excitatory\[0\] has the entry -1"),
        (lambda: irnn.Dale(excitatory=(np.eye(2),)), r"excitatory\[0\] must have 1 axis"),
        (lambda: irnn.dale(PLAIN, KINDS[:2]), "excitatory has 2 entries, but the network has 3"),
        (
            lambda: irnn.dale(PLAIN, (KINDS[1], *KINDS[1:])),
            r"excitatory\[0\] has shape \(3,\), but \(4,\) is expected",
        ),
        (lambda: irnn.dale(PLAIN, KINDS, inputs=(True,)), r"inputs has shape \(1,\), but \(2,\)"),
        (
            lambda: irnn.dale(irnn.masked(PLAIN, {}), KINDS),  # pyright: ignore[reportArgumentType]
            r"for a Network, got a MaskedNetwork.*masked\(dale\(net, ...\), masks\)",
        ),
    ],
)
@pytest.mark.usefixtures("without_runtime_types")
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
