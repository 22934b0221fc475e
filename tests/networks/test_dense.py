"""Networks: how they are drawn, built by hand, stacked and evaluated."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from tests.problems import (
    DIFFERENCES,
    NETWORKS,
    central_differences,
    inputs,
    network,
    one_pass,
    oscillator,
    reference_equilibrium,
    relative_error,
    spectral_abscissa,
    squared_error,
    targets,
)
from tests.statuses import UNSTABLE, assert_status

# --- init ---------------------------------------------------------------------------------------

SIZES = [(2, 2), (100, 5, 2), (3, 1, 4, 2), (2, 3, 2, 3, 1)]


@pytest.mark.parametrize("sizes", SIZES)
def test_init_draws_the_papers_network(sizes, getkey):
    key = getkey()
    net = irnn.init(key, sizes)
    assert net.sizes == sizes
    assert net.is_recurrent
    assert len(net.layers) == len(sizes) - 1
    assert len(net.feedback) == len(sizes) - 2
    for i, layer in enumerate(net.layers):
        size, below = sizes[i + 1], sizes[i]
        assert layer.feedforward.shape == (size, below)
        assert layer.bias.shape == (size,)
        np.testing.assert_array_equal(layer.lateral, np.zeros((size, size)))
    for i, weights in enumerate(net.feedback):
        np.testing.assert_array_equal(weights, np.zeros((sizes[i + 1], sizes[i + 2])))
    twin = irnn.init(key, sizes, recurrent=False)
    assert not twin.is_recurrent
    assert twin.sizes == sizes
    assert twin.feedback == ()
    for layer, other in zip(net.layers, twin.layers, strict=True):
        np.testing.assert_array_equal(layer.feedforward, other.feedforward)
        np.testing.assert_array_equal(layer.bias, other.bias)
        assert other.lateral is None


def test_init_draws_uniformly_and_independently(getkey):
    net = irnn.init(getkey(), (50, 40, 30))
    draws = [np.ravel(leaf) for layer in net.layers for leaf in (layer.feedforward, layer.bias)]
    assert all(np.max(np.abs(draw)) <= 0.5 for draw in draws)
    weights = np.concatenate(draws)
    # Of 3,270 numbers the extremes come within 1e-2 of +-1/2 but for a chance of 1e-14; mean and
    # variance are within six standard errors of 0 and 1/12.
    assert weights.min() < -0.49
    assert weights.max() > 0.49
    assert abs(weights.mean()) < 6 * (1 / 12 / weights.size) ** 0.5
    assert abs(weights.var() - 1 / 12) < 6 * (1 / 180 / weights.size) ** 0.5
    assert len(np.unique(weights)) == weights.size
    other = irnn.init(getkey(), (50, 40, 30))
    assert not np.any(other.layers[0].feedforward == net.layers[0].feedforward)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, "float32", np.float64])
def test_init_has_the_dtype_asked_for(dtype, getkey):
    for leaf in jax.tree.leaves(irnn.init(getkey(), (2, 3, 1), dtype=dtype)):
        assert leaf.dtype == jnp.dtype(dtype)


def test_init_has_jax_default_float(getkey):
    for x64, dtype in ((True, jnp.float64), (False, jnp.float32)):
        with jax.enable_x64(x64):
            net = irnn.init(getkey(), (2, 2))
            assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {jnp.dtype(dtype)}


# --- evaluation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_shape", [(), (1,), (6,), (2, 3), (3, 1, 2), (0,), (2, 0, 3)])
def test_leading_axes_are_batch_axes(batch_shape):
    net = NETWORKS["two_layers"]
    count = int(np.prod(batch_shape))
    x = inputs(net, batch=6)[:count]
    result = irnn.equilibrium(net, x.reshape(*batch_shape, 2))
    expected = reference_equilibrium(net, x) if count else (np.zeros((0, 2)), np.zeros((0, 1)))
    for actual, reference in zip(result.activities, expected, strict=True):
        np.testing.assert_allclose(
            actual, reference.reshape(*batch_shape, reference.shape[-1]), rtol=0, atol=1e-13
        )
    for diagnostic in (result.residual, result.num_steps, result.converged):
        assert diagnostic.shape == batch_shape
    assert result.converged.dtype == bool
    assert jnp.issubdtype(result.num_steps.dtype, jnp.integer)


def test_activities_go_from_the_first_hidden_layer_to_the_output():
    net = NETWORKS["three_layers"]
    x = inputs(net)
    result = irnn.equilibrium(net, x)
    assert [a.shape[-1] for a in result.activities] == [1, 2, 1]
    np.testing.assert_array_equal(irnn.apply(net, x), result.activities[-1])


def _half_sine(x: Any) -> Any:
    return 0.5 * jnp.sin(x)


ACTIVATIONS = {
    "tanh": (jnp.tanh, np.tanh),
    "softplus": (jax.nn.softplus, lambda x: np.logaddexp(x, 0)),
    "user": (_half_sine, lambda x: 0.5 * np.sin(x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_other_activations(name):
    f, reference = ACTIVATIONS[name]
    net = network((2, 2, 1), scale=0.4, seed=1)  # slopes of up to 1 instead of 1/4
    x, target = inputs(net), targets(net)

    def loss(net):
        result = irnn.equilibrium(net, x, activation=f)
        return squared_error(result.activities[-1], target), result

    gradient, result = jax.jit(jax.grad(loss, has_aux=True))(net)
    assert np.all(result.converged)
    for actual, expected in zip(
        result.activities, reference_equilibrium(net, x, reference), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)
    differences = central_differences(
        lambda net: squared_error(reference_equilibrium(net, x, reference)[-1], target), net
    )
    assert relative_error(gradient, differences) < DIFFERENCES


def test_missing_weights_are_zero_weights():
    net = NETWORKS["partly_recurrent"]
    x = inputs(net)
    first, *rest = net.layers
    full = irnn.Network(
        layers=(first._replace(lateral=jnp.zeros((1, 1))), *rest),
        feedback=(net.feedback[0], jnp.zeros((2, 1))),
    )
    apply = functools.partial(irnn.apply, solver=irnn.Picard())
    np.testing.assert_array_equal(apply(net, x), apply(full, x))
    without_feedback = irnn.Network(layers=net.layers)
    zero_feedback = irnn.Network(layers=net.layers, feedback=(jnp.zeros((1, 2)), None))
    np.testing.assert_array_equal(apply(without_feedback, x), apply(zero_feedback, x))
    assert relative_error(apply(full, x), apply(zero_feedback, x)) > 1e-3


def test_weights_and_inputs_may_be_numpy_arrays():
    net = NETWORKS["two_layers"]
    x = inputs(net)
    as_numpy: Any = jax.tree.map(np.asarray, (net, x))
    np.testing.assert_array_equal(irnn.apply(*as_numpy), irnn.apply(net, x))


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_feed_forward_twin_is_a_plain_pass(num_layers):
    sizes = (3, 4, 2, 3, 2)[: num_layers + 1]
    net = network(sizes, recurrent=False)
    x, target = inputs(net), targets(net)
    result = irnn.equilibrium(net, x)
    for actual, expected in zip(result.activities, one_pass(net, x, None), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-14)
    np.testing.assert_array_equal(result.residual, np.zeros(3))
    np.testing.assert_array_equal(result.num_steps, np.zeros(3))
    np.testing.assert_array_equal(result.converged, np.ones(3, bool))
    gradient = jax.grad(lambda net: squared_error(irnn.apply(net, x), target))(net)
    differences = central_differences(
        lambda net: squared_error(one_pass(net, np.asarray(x), None)[-1], target), net
    )
    assert relative_error(gradient, differences) < DIFFERENCES


def test_a_network_with_zero_recurrent_weights_is_its_feed_forward_twin(getkey):
    key = getkey()
    net, twin = irnn.init(key, (2, 3, 1)), irnn.init(key, (2, 3, 1), recurrent=False)
    x = inputs(net)
    np.testing.assert_allclose(irnn.apply(net, x), irnn.apply(twin, x), rtol=1e-13)


# --- dtypes -------------------------------------------------------------------------------------


FLOAT32 = [
    (irnn.PseudoTransient(), irnn.Exact(), True),
    (irnn.PseudoTransient(), irnn.Exact(), False),
    (irnn.Picard(), irnn.Exact(), True),
    pytest.param(irnn.Picard(), irnn.Unrolled(), True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("solver", "gradient", "x64"), FLOAT32)
def test_float32_networks_stay_float32(solver, gradient, x64):
    net = NETWORKS["two_layers"]
    x, target = inputs(net), targets(net)
    expected = reference_equilibrium(net, x)
    differences = central_differences(
        lambda net: squared_error(reference_equilibrium(net, x)[-1], target), net
    )
    narrow = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf, np.float32))
    with jax.enable_x64(x64):

        def loss(net, x, target):
            result = irnn.equilibrium(net, x, solver=solver, gradient=gradient)
            return squared_error(result.activities[-1], target), result

        arrays = jax.tree.map(jnp.asarray, narrow((net, x, target)))
        d_net, result = jax.jit(jax.grad(loss, has_aux=True))(*arrays)
    assert {leaf.dtype for leaf in jax.tree.leaves((d_net, result.activities))} == {
        jnp.dtype("float32")
    }
    assert np.all(result.converged)
    for actual, reference in zip(result.activities, expected, strict=True):
        # The tolerance is eps^(3/4) = 6.4e-6, the rate 1/2.
        np.testing.assert_allclose(actual, reference, rtol=0, atol=2e-5)
    # An unrolled derivative lags behind its iterate by tens of steps' worth of that.
    bound = 1e-2 if isinstance(gradient, irnn.Unrolled) else 1e-4
    assert relative_error(d_net, differences) < bound


# --- Jacobians and stability --------------------------------------------------------------------


JACOBIANS = {
    "two_layers": NETWORKS["two_layers"],
    "three_layers": NETWORKS["partly_recurrent"],
    "no_feedback": irnn.Network(layers=NETWORKS["two_layers"].layers),
    "feed_forward": network((2, 3, 2), recurrent=False),
}


@pytest.mark.parametrize("name", JACOBIANS)
def test_jacobians_are_jacrev_of_apply(name):
    net = JACOBIANS[name]
    x = inputs(net)[0]
    solver = irnn.Picard()
    jacobians = jax.jit(functools.partial(irnn.jacobians, solver=solver))(net, x)
    expected = jax.jit(jax.jacrev(lambda net: irnn.apply(net, x, solver=solver)))(net)
    # Two ways from the same activities, both with the rounding of one linear solve.
    assert relative_error(jacobians, expected) < 1e-12


def test_jacobians_are_nan_without_an_equilibrium():
    jacobians = irnn.jacobians(oscillator(), jnp.zeros(2), solver=irnn.Picard())
    for leaf in jax.tree.leaves(jacobians):
        assert np.all(np.isnan(leaf))


@pytest.mark.parametrize("name", ["one_layer", "partly_recurrent"])
def test_stability_is_the_spectrum_of_the_linearised_flow(name):
    net = NETWORKS[name]
    x = inputs(net, batch=4)
    found = irnn.stability(net, x.reshape(2, 2, 2))
    activities = reference_equilibrium(net, x)
    expected = [spectral_abscissa(net, [layer[i] for layer in activities]) for i in range(4)]
    np.testing.assert_allclose(found.abscissa, np.reshape(expected, (2, 2)), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.rate, 1 - found.abscissa)
    assert found.is_stable.shape == (2, 2)
    assert np.all(found.is_stable)


def test_stability_uses_the_activation_and_flags_what_does_not_rest():
    net = network((2, 2), scale=0.4, seed=1)
    x = inputs(net)[0]
    (y,) = reference_equilibrium(net, x, np.tanh)
    expected = np.linalg.eigvals((1 - y**2)[:, None] * np.asarray(net.layers[0].lateral))
    found = irnn.stability(net, x, activation=jnp.tanh)
    np.testing.assert_allclose(found.abscissa, expected.real.max(), rtol=0, atol=1e-12)
    assert bool(found.is_stable)
    assert not irnn.stability(oscillator(), jnp.zeros(2)).is_stable


def test_an_equilibrium_at_which_nothing_stays_is_not_stable():
    # Y = tanh(2 Y) at 0: the search begins at rest there, but the slope of D A is 2.
    layer = irnn.Layer(
        feedforward=jnp.ones((1, 1)), lateral=jnp.full((1, 1), 2.0), bias=jnp.zeros(1)
    )
    net, x = irnn.Network(layers=(layer,)), jnp.zeros(1)
    found = irnn.equilibrium(net, x, activation=jnp.tanh)
    assert_status(found, UNSTABLE)
    assert irnn.equilibrium(net, x, activation=jnp.tanh, check_stability=False).converged
    found = irnn.stability(net, x, activation=jnp.tanh)
    assert (float(found.abscissa), float(found.rate)) == (2.0, -1.0)
    assert not found.is_stable
