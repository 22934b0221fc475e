"""Masks: what they leave out is exactly zero and stays so, and the rest is as it was."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import irnn_jax as irnn
from irnn_jax.networks.groups import parameter_groups
from tests.problems import CHEAP, central_differences, inputs, network, relative_error, targets

SIZES = (2, 3, 2)
ACROSS = jnp.asarray([[0.5, -0.3], [0.2, 0.7]])
PLAIN: Any = network(SIZES, scale=0.6)._replace(skips={"0->2": ACROSS})
MASKS = {
    "layers[0].lateral": ~np.eye(3, dtype=bool),
    "layers[1].feedforward": np.array([[1, 0, 1], [0, 1, 1]]),
    "layers[1].bias": np.array([0.0, 1.0]),
    "feedback[0]": jnp.asarray([[True, False], [False, True], [True, True]]),
    "skips['0->2']": np.array([[1, 0], [0, 1]]),
}
NET = irnn.masked(PLAIN, MASKS)


def by_hand(net: Any) -> Any:
    """The masks multiplied in, by plain indexing."""
    first, second = net.layers
    return net._replace(
        layers=(
            first._replace(lateral=first.lateral * MASKS["layers[0].lateral"]),
            second._replace(
                feedforward=second.feedforward * MASKS["layers[1].feedforward"],
                bias=second.bias * MASKS["layers[1].bias"],
            ),
        ),
        feedback=(net.feedback[0] * MASKS["feedback[0]"],),
        skips={"0->2": net.skips["0->2"] * MASKS["skips['0->2']"]},
    )


def loss(net: Any, x: Any) -> Any:
    return jnp.mean((irnn.apply(net, x, solver=CHEAP) - targets(PLAIN)) ** 2)


def test_masked_weights_are_zero_and_others_as_they_were():
    assert relative_error(NET.network(), by_hand(PLAIN)) == 0
    # Zeros that are there, whatever the parameter is.
    first, second = PLAIN.layers
    first = first._replace(lateral=jnp.where(jnp.eye(3) == 1, jnp.nan, first.lateral))
    held = irnn.masked(PLAIN._replace(layers=(first, second)), MASKS)
    assert relative_error(held.network(), by_hand(PLAIN)) == 0


def test_gradients_are_those_of_the_weights_that_are_left():
    x = inputs(PLAIN)
    gradient = jax.grad(loss)(NET, x)
    assert jax.tree.structure(gradient) == jax.tree.structure(NET)
    assert relative_error(gradient.inner, jax.grad(lambda p: loss(by_hand(p), x))(PLAIN)) < 1e-10
    assert relative_error(gradient.inner, by_hand(gradient.inner)) == 0
    function = jax.jit(functools.partial(loss, x=x))
    assert relative_error(gradient, central_differences(function, NET)) < 1e-6


def test_masks_are_no_parameters():
    assert len(jax.tree.leaves(NET)) == len(jax.tree.leaves(PLAIN))
    again = irnn.masked(PLAIN, MASKS)
    assert jax.tree.structure(again) == jax.tree.structure(NET)
    assert hash(again.masks) == hash(NET.masks)
    other = irnn.masked(PLAIN, {**MASKS, "layers[0].lateral": np.ones((3, 3))})
    assert jax.tree.structure(other) != jax.tree.structure(NET)
    groups: Any = parameter_groups(NET)
    assert jax.tree.leaves(groups) == jax.tree.leaves(parameter_groups(PLAIN))
    assert jax.tree.structure(groups) == jax.tree.structure(NET)


def test_masked_weights_stay_zero_in_training():
    # One that moves parameters whose gradient is zero.
    optimizer = optax.adamw(0.05, weight_decay=0.1)
    step = irnn.make_train_step(
        irnn.squared_error, optimizer, solver=CHEAP, guard=irnn.Guard(every=2)
    )
    state = irnn.TrainState.create(NET, optimizer)
    batch = inputs(PLAIN), targets(PLAIN)
    for _ in range(5):
        state, metrics = step(state, batch)
        assert metrics.applied == 1
    learnt: Any = state.net.network()
    assert relative_error(learnt, by_hand(learnt)) == 0
    for mine, before in zip(jax.tree.leaves(learnt), jax.tree.leaves(NET.network()), strict=True):
        assert np.any(np.asarray(mine) != np.asarray(before))


def test_runs_share_masks_under_vmap():
    def start(key):
        net = irnn.init(key, SIZES)
        return irnn.masked(net, irnn.no_self_connections(net))

    keys = jax.random.split(jax.random.key(0), 3)
    nets = jax.jit(jax.vmap(start))(keys)
    x = inputs(PLAIN)
    many = jax.vmap(lambda net: irnn.apply(net, x, solver=CHEAP))(nets)
    alone = irnn.apply(start(keys[1]), x, solver=CHEAP)
    np.testing.assert_allclose(many[1], alone, rtol=0, atol=1e-14)


def test_masks_of_a_masked_network_are_joined():
    more = {"layers[0].lateral": np.tri(3), "layers[0].bias": np.array([1, 1, 0])}
    twice: Any = irnn.masked(NET, more)
    lateral = twice.network().layers[0].lateral
    np.testing.assert_array_equal(lateral, np.tri(3, k=-1) * PLAIN.layers[0].lateral)
    assert twice.network().layers[0].bias[2] == 0
    np.testing.assert_array_equal(twice.network().feedback[0], NET.network().feedback[0])


def test_a_certified_network_keeps_its_guarantee():
    net = irnn.init(jax.random.key(0), SIZES, parametrization=irnn.Certified())
    inputs_only = irnn.masked(net, {"layers[0].feedforward": np.eye(3, 2)})
    assert irnn.certify(inputs_only).is_certified
    assert inputs_only.network().layers[0].feedforward[2, 0] == 0
    for name in ("layers[0].lateral", "layers[1].feedforward", "feedback[0]"):
        with pytest.raises(ValueError, match="would undo what CertifiedNetwork guarantees"):
            irnn.masked(inputs_only, {name: None})


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            {"layers[0].lateral": np.ones((3, 2))},
            r"layers\[0\].lateral has shape \(3, 2\), but \(3, 3\)",
        ),
        ({"layers[0].lateral": np.full((3, 3), 2)}, "has the entry 2, but only 0 and 1"),
        ({"layers[0].lateral": np.full((3, 3), np.nan)}, "has the entry nan"),
        ({"layers[0].lateral": np.full((3, 3), "a")}, "must be an array of 0 and 1"),
        ({"layers[0].W": np.ones((3, 3))}, r"no 'layers\[0\].W' to mask; it has layers\[0\].feedf"),
        ({"skips['1->3']": np.ones((3, 3))}, "to mask; it has"),
        ([np.ones((3, 3))], "masks is a list, but a dict is expected"),
    ],
)
@pytest.mark.usefixtures("without_runtime_types")
def test_bad_masks_are_named(masks, message):
    with pytest.raises(ValueError, match=message):
        irnn.masked(PLAIN, masks)


def test_weights_that_are_not_there_have_no_mask():
    twin = irnn.init(jax.random.key(0), SIZES, recurrent=False)
    with pytest.raises(ValueError, match=r"no 'layers\[0\].lateral' to mask"):
        irnn.masked(twin, {"layers[0].lateral": np.ones((3, 3))})


def test_a_traced_mask_is_refused():
    def start(mask):
        return irnn.masked(PLAIN, {"layers[0].lateral": mask})

    with pytest.raises(ValueError, match=r"the mask of layers\[0\].lateral is traced"):
        jax.jit(start)(jnp.ones((3, 3)))
