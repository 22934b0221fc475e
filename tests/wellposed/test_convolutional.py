"""Certified convolutional networks: a bound that holds, and one equilibrium for every image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import irnn_jax as irnn
from irnn_jax.networks.convolutional import convolve
from irnn_jax.wellposed.convolutional import kernel_norm


@settings(max_examples=12, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kind=st.sampled_from(["normal", "positive", "one_tap"]),
    seed=st.integers(0, 1000),
)
def test_the_bound_holds_and_is_close(sides, channels, kind, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(*sides, *channels))
    kernel = np.abs(kernel) if kind == "positive" else kernel
    if kind == "one_tap":
        kernel *= rng.permutation(kernel.size).reshape(kernel.shape) == 0
    side = 10
    matrix = jax.jacobian(
        lambda v: convolve(v.reshape(1, side, side, channels[0]), jnp.asarray(kernel)).reshape(-1)
    )(jnp.zeros(side * side * channels[0]))
    norm = np.linalg.norm(matrix, 2)
    bound = float(kernel_norm(jnp.asarray(kernel)))
    assert norm * (1 - 1e-12) <= bound <= 1.5 * norm + 1e-300


def test_the_bound_of_extreme_kernels():
    assert kernel_norm(jnp.zeros((3, 3, 2, 2))) == 0
    gradient = jax.grad(kernel_norm)(jnp.zeros((3, 3, 2, 2)))
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(kernel_norm(jnp.full((1, 1, 1, 1), 1e200)), 1e200, rtol=1e-9)


def start(seed: int = 0, **options):
    return irnn.conv.init(
        jax.random.key(seed),
        (6, 6, 1),
        (3, 4),
        strides=(1, 2),
        parametrization=irnn.conv.Certified(**options),
    )


def test_it_starts_as_it_is_drawn():
    plain = irnn.conv.init(jax.random.key(0), (6, 6, 1), (3, 4), strides=(1, 2))
    for a, b in zip(jax.tree.leaves(start().network()), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [0.3, 3.0, 100.0])
def test_one_equilibrium_that_plain_iteration_reaches(size):
    rng = np.random.default_rng(int(size))
    net = jax.tree.map(lambda leaf: leaf + size * rng.normal(size=leaf.shape), start(margin=0.2))
    x = jnp.asarray(size * rng.normal(size=(64, 6, 6, 1)))
    found = irnn.equilibrium(net, x)
    assert found.converged.all()
    picard = irnn.equilibrium(net, x, solver=irnn.Picard(max_steps=400))
    # From elsewhere the flow comes to rest at the same place.
    begin = tuple(jnp.asarray(rng.uniform(size=leaf.shape)) for leaf in found.activities)
    again = irnn.equilibrium(net, x, y0=begin)
    for a, b, c in zip(found.activities, picard.activities, again.activities, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-10)


def test_weak_kernels_stay_as_they_are_and_strong_ones_do_not():
    net = start()
    weak = jax.tree.map(lambda leaf: leaf + 1e-3, net)
    for a, b in zip(jax.tree.leaves(weak.network()), jax.tree.leaves(weak.free), strict=True):
        np.testing.assert_array_equal(a, b)
    strong = jax.tree.map(lambda leaf: leaf + 10.0, net).network()
    assert kernel_norm(strong.layers[0].lateral) <= 0.95 / 0.25 / 2 * (1 + 1e-12)


def test_it_trains_by_the_same_step():
    optimizer = irnn.adam({"feedforward": 0.01, "lateral": 0.1, "feedback": 0.1, "bias": 0.01})
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    state = irnn.TrainState.create(start(), optimizer)
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.normal(size=(4, 6, 6, 1))), jnp.asarray(rng.uniform(size=(4, 3, 3, 4)))
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        assert metrics.converged == 1
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.8 * losses[0]


def test_bad_margins_are_refused():
    with pytest.raises(ValueError, match="margin must be between 0 and 1"):
        irnn.conv.Certified(margin=1.0)
    with pytest.raises(ValueError, match="slope_bound"):
        irnn.conv.Certified(slope_bound=0.0)
