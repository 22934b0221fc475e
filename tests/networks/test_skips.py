"""Skip connections. The oracle: all connections written out as those of one layer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import fsolve
from scipy.special import expit

import irnn_jax as irnn
from irnn_jax.networks.groups import parameter_groups
from tests.problems import (
    CHEAP,
    central_differences,
    connection_matrix,
    inputs,
    network,
    relative_error,
    targets,
)

SIZES = (2, 2, 3, 1, 2)
SHAPES = {"0->2": (3, 2), "0->4": (2, 2), "1->3": (1, 2), "1->4": (2, 2)}
BACK = {"3->1": (2, 1), "4->1": (2, 2), "4->2": (3, 2)}
ENDS = np.cumsum((0, *SIZES[1:]))


def normal(shapes: dict[str, Any], scale: float = 0.6, seed: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {key: jnp.asarray(scale * rng.normal(size=shape)) for key, shape in shapes.items()}


NET = network(SIZES, scale=0.6)._replace(skips=normal(SHAPES | BACK))
FORWARD = network(SIZES, recurrent=False)._replace(skips=normal(SHAPES, scale=1.5))


def part(layer: int) -> slice:
    return slice(ENDS[layer - 1], ENDS[layer])


def written_out(net: irnn.Network) -> Any:
    """One layer of all neurons, with A as its lateral weights, put together by hand."""
    A, Q = connection_matrix(net._replace(skips=None)), np.zeros((ENDS[-1], SIZES[0]))
    Q[part(1)] = net.layers[0].feedforward
    for key, weights in (net.skips or {}).items():
        source, target = map(int, key.split("->"))
        if source:
            A[part(target), part(source)] = weights
        else:
            Q[part(target)] = weights
    T = np.concatenate([np.asarray(layer.bias) for layer in net.layers])
    layer = irnn.Layer(feedforward=jnp.asarray(Q), lateral=jnp.asarray(A), bias=jnp.asarray(T))
    return irnn.Network(layers=(layer,))


def taken_apart(layer: irnn.Layer, net: irnn.Network) -> irnn.Network:
    """The entries of a gradient with respect to `written_out` that are weights of `net`."""
    Q, A, T = layer.feedforward, layer.lateral, layer.bias
    assert A is not None

    def block(key: str) -> Any:
        source, target = map(int, key.split("->"))
        return A[part(target), part(source)] if source else Q[part(target)]

    layers = tuple(
        irnn.Layer(
            feedforward=block(f"{i}->{i + 1}"),
            lateral=None if own.lateral is None else block(f"{i + 1}->{i + 1}"),
            bias=T[part(i + 1)],
        )
        for i, own in enumerate(net.layers)
    )
    feedback = tuple(block(f"{i + 2}->{i + 1}") for i in range(len(net.feedback)))
    return irnn.Network(
        layers=layers, feedback=feedback, skips={k: block(k) for k in net.skips or {}}
    )


@pytest.mark.parametrize("net", [NET, FORWARD], ids=["recurrent", "forward"])
def test_activities_solve_the_equation_written_out(net):
    Q, A, T = (np.asarray(leaf) for leaf in written_out(net).layers[0])
    result = irnn.equilibrium(net, inputs(net))
    assert result.converged.all()
    for x, *activities in zip(inputs(net), *result.activities, strict=True):
        b = Q @ np.asarray(x) + T
        Y = fsolve(lambda Y, b=b: expit(A @ Y + b) - Y, np.full(len(b), 0.5), xtol=1e-14)
        np.testing.assert_allclose(np.concatenate(activities) - Y, 0, rtol=0, atol=1e-10)


def loss_of(**options: Any) -> Any:
    target = targets(NET)

    def loss(net, x):
        return jnp.mean((irnn.apply(net, x, **options)[..., -2:] - target) ** 2)

    return loss


@pytest.mark.parametrize("net", [NET, FORWARD], ids=["recurrent", "forward"])
def test_gradients_are_those_of_the_equation_written_out(net):
    x = inputs(net)
    gradient, of_x = jax.grad(loss_of(), argnums=(0, 1))(net, x)
    big, big_of_x = jax.grad(loss_of(), argnums=(0, 1))(written_out(net), x)
    assert relative_error(gradient, taken_apart(big.layers[0], net)) < 1e-10
    assert relative_error(of_x, big_of_x) < 1e-10


@pytest.mark.parametrize("net", [NET, FORWARD], ids=["recurrent", "forward"])
def test_gradients_are_central_differences(net):
    loss = jax.jit(loss_of(solver=CHEAP))
    x = inputs(net)
    differences = central_differences(lambda skips: loss(net._replace(skips=skips), x), net.skips)
    gradient = jax.grad(loss)(net, x).skips
    assert relative_error(gradient, differences) < 1e-6


def test_the_semi_gradient_takes_every_way_forward():
    """The gradient of a pass in which only recurrent weights see constants."""
    x, target = inputs(NET), targets(NET)
    constants = (x, *irnn.equilibrium(NET, x).activities)

    def one_pass(net, x):
        seen = [x]
        for i, layer in enumerate(net.layers):
            total = seen[i] @ layer.feedforward.T + layer.bias + constants[i + 1] @ layer.lateral.T
            if i < len(net.feedback):
                total += constants[i + 2] @ net.feedback[i].T
            for key, weights in net.skips.items():
                source, end = map(int, key.split("->"))
                if end == i + 1:
                    total += (seen if source < end else constants)[source] @ weights.T
            seen.append(jax.nn.sigmoid(total))
        return jnp.mean((seen[-1] - target) ** 2)

    semi = jax.grad(loss_of(gradient=irnn.SemiGradient(), solver=CHEAP), argnums=(0, 1))(NET, x)
    assert relative_error(semi, jax.grad(one_pass, argnums=(0, 1))(NET, x)) < 1e-10


@pytest.mark.parametrize("net", [NET, FORWARD], ids=["recurrent", "forward"])
def test_jacobians_are_the_exact_gradients(net):
    x = inputs(net)[0]
    expected = jax.jacobian(lambda net: irnn.apply(net, x, solver=CHEAP))(net)
    assert relative_error(irnn.jacobians(net, x, solver=CHEAP), expected) < 1e-9


def test_jacobians_of_two_layers_take_the_input_to_the_output():
    net = network((2, 2, 1), scale=0.6)._replace(skips=normal({"0->2": (1, 2)}))
    x = inputs(net)[0]
    expected = jax.jacobian(lambda net: irnn.apply(net, x, solver=CHEAP))(net)
    assert relative_error(irnn.jacobians(net, x, solver=CHEAP), expected) < 1e-9


def test_stability_certificate_and_penalty_see_skips():
    x = inputs(NET)
    big = written_out(NET)
    measures: list[Any] = [
        lambda net: irnn.stability(net, x).abscissa,
        lambda net: irnn.certify(net).lyapunov_margin,
        lambda net: irnn.jacobian_penalty(net, x),
    ]
    for seen in measures:
        np.testing.assert_allclose(seen(NET), seen(big), rtol=1e-9)


def test_only_ways_back_make_a_network_recurrent():
    assert not FORWARD.is_recurrent
    back = FORWARD._replace(skips=normal({"3->1": (2, 1)}))
    assert back.is_recurrent
    assert back.sizes == SIZES
    # A cycle 1 -> 2 -> 3 -> 1, which one pass would miss.
    assert irnn.equilibrium(back, inputs(back)).num_steps.max() > 0
    assert not FORWARD._replace(skips={"3->1": None}).is_recurrent


# --- init, groups, training -----------------------------------------------------------------------


def test_init_draws_skips_forward_and_leaves_the_rest(getkey):
    key = getkey()
    plain = irnn.init(key, (30, 20, 40, 10))
    net: Any = irnn.init(key, (30, 20, 40, 10), skips=("0->2", "1->3", "3->1"))
    assert relative_error(net._replace(skips=None), plain) == 0
    np.testing.assert_array_equal(net.skips["3->1"], np.zeros((20, 10)))
    forward, across = np.ravel(net.skips["0->2"]), np.ravel(net.skips["1->3"])
    assert (net.skips["0->2"].shape, net.skips["1->3"].shape) == ((40, 30), (10, 20))
    everything = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(net)])
    drawn = everything[everything != 0]
    assert len(np.unique(drawn)) == drawn.size
    # Six standard errors of a uniform distribution's variance.
    for draw in (forward, across):
        assert np.max(np.abs(draw)) <= 0.5
        assert abs(draw.var() - 1 / 12) < 6 * (1 / 180 / draw.size) ** 0.5
    alone: Any = irnn.init(key, (30, 20, 40, 10), skips=("1->3",), recurrent=False)
    np.testing.assert_array_equal(alone.skips["1->3"], net.skips["1->3"])
    assert not alone.is_recurrent


def test_skips_are_in_the_groups_of_their_direction():
    groups = parameter_groups(NET)
    assert groups.skips == {
        **dict.fromkeys(SHAPES, "feedforward"),
        **dict.fromkeys(BACK, "feedback"),
    }
    optimizer = irnn.adam({"feedforward": 0.1, "lateral": 0.0, "feedback": 0.0, "bias": 0.0})
    net: Any = NET
    updates: Any = optimizer.update(jax.tree.map(jnp.ones_like, net), optimizer.init(net), net)[0]
    assert all(np.all(updates.skips[key] != 0) for key in SHAPES)
    assert all(np.all(updates.skips[key] == 0) for key in BACK)


def test_runs_of_networks_with_skips_are_trained():
    optimizer = irnn.adam(0.05)
    step = irnn.make_train_step(
        irnn.squared_error, optimizer, solver=CHEAP, guard=irnn.Guard(every=2)
    )
    make = functools.partial(irnn.init, sizes=(2, 2, 2, 1), skips=("0->3", "3->1"))

    def start(key):
        return irnn.TrainState.create(make(key), optimizer)

    states = jax.vmap(start)(jax.random.split(jax.random.key(0), 3))
    x, target = inputs(network((2, 1))), targets(network((2, 1)))
    many = jax.jit(jax.vmap(step, in_axes=(0, None)))
    losses = []
    for _ in range(20):
        states, metrics = many(states, (x, target))
        losses.append(metrics.loss)
    assert np.all(losses[-1] < losses[0])
    back = states.net.skips["3->1"]
    assert back.shape == (3, 2, 1)
    assert np.all(back != 0)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skips", "message"),
    [
        ({"0-2": jnp.zeros((3, 2))}, "'0-2', but a key reads 'source->target'"),
        ({(0, 2): jnp.zeros((3, 2))}, r"\(0, 2\), but a key reads"),
        ({"00->2": jnp.zeros((3, 2))}, "'00->2', but a key reads"),
        ({"0->5": jnp.zeros((3, 2))}, "'0->5', but the layers are 0, the input, to 4"),
        ({"2->0": jnp.zeros((2, 3))}, "'2->0', but nothing leads to the input"),
        ({"2->2": jnp.zeros((3, 3))}, r"no skip: it is layers\[1\].lateral"),
        ({"0->1": jnp.zeros((2, 2))}, r"no skip: it is layers\[0\].feedforward"),
        ({"3->2": jnp.zeros((3, 1))}, r"no skip: it is feedback\[1\]"),
        ({"0->2": jnp.zeros((2, 3))}, r"skips\['0->2'\] has shape \(2, 3\), but \(3, 2\) fits"),
        ({"0->2": jnp.zeros((3, 2), int)}, r"skips\['0->2'\] has dtype int"),
        ((jnp.zeros((3, 2)),), "skips is a tuple, but a dict is expected"),
    ],
)
@pytest.mark.usefixtures("without_runtime_types")
def test_bad_skips_are_named(skips, message):
    net = NET._replace(skips=skips)
    with pytest.raises(ValueError, match=message):
        irnn.equilibrium(net, inputs(NET))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skips": "0->2"}, r"skips must be a tuple of keys, as \('0->2',\), got '0->2'"),
        ({"skips": ("0->1",)}, r"it is layers\[0\].feedforward"),
        ({"skips": ("3->1",), "recurrent": False}, "no way back, but skips has '3->1'"),
        (
            {"skips": ("0->2",), "parametrization": irnn.Certified()},
            r"Certified connects neighbouring layers only.*got \['0->2'\]",
        ),
        (
            {"skips": ("0->2",), "parametrization": irnn.Symmetric()},
            "Symmetric connects neighbouring layers only",
        ),
    ],
)
@pytest.mark.usefixtures("without_runtime_types")
def test_init_names_bad_skips(options, message, getkey):
    with pytest.raises(ValueError, match=message):
        irnn.init(getkey(), (2, 2, 2, 1), **options)
