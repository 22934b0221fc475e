"""`y0`: the flow from there, of dense and convolutional networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn


def network(*sizes: int, seed: int = 0) -> irnn.Network:
    rng = np.random.default_rng(seed)
    net = irnn.init(jax.random.key(seed), sizes)
    return jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape), net)


def bistable() -> irnn.Network:
    """sigmoid(10 y - 5): at rest near 0 and near 1."""
    one = jnp.ones((1, 1))
    return irnn.Network(layers=(irnn.Layer(feedforward=one, lateral=10 * one, bias=-5 * one[0]),))


@pytest.mark.parametrize("sizes", [(4, 5, 2), (3, 40, 2), (3, 130, 2)])
def test_from_an_equilibrium_it_stays_there(sizes):
    net = network(*sizes)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, sizes[0])))
    net = jax.tree.map(lambda leaf: leaf / (max(sizes) / 5) ** 0.5, net)
    cold = irnn.equilibrium(net, x)
    warm = irnn.equilibrium(net, x, y0=cold.activities)
    assert cold.converged.all()
    assert warm.converged.all()
    for a, b in zip(warm.activities, cold.activities, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_from_an_equilibrium_newton_has_few_steps():
    net = network(4, 5, 2)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, 4)))
    cold = irnn.equilibrium(net, x)
    warm = irnn.equilibrium(net, x, y0=cold.activities)
    assert warm.num_steps.max() < cold.num_steps.min()


def test_it_stays_with_its_own_equilibrium():
    net, x = bistable(), jnp.zeros((3, 1))
    start = (jnp.asarray([[0.0], [0.45], [0.9]]),)
    found = irnn.equilibrium(net, x, y0=start)
    assert found.converged.all()
    np.testing.assert_allclose(found.activities[0][:, 0], [0.00718, 0.00718, 0.99282], atol=1e-4)
    moved = jax.vmap(lambda x, y0: irnn.apply(net, x, y0=y0))(x, start)
    np.testing.assert_allclose(moved, found.activities[0], rtol=0, atol=1e-11)


def test_the_gradient_is_the_equilibriums_and_none_of_the_starts():
    net = network(4, 5, 2)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, 4)))
    y0 = irnn.equilibrium(net, x).activities

    def loss(net, y0):
        return jnp.sum(irnn.apply(net, x, y0=y0) ** 2)

    warm, of_start = jax.grad(loss, argnums=(0, 1))(net, y0)
    cold = jax.grad(loss)(net, None)
    for a, b in zip(jax.tree.leaves(warm), jax.tree.leaves(cold), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
    assert not any(leaf.any() for leaf in of_start)


def test_a_scan_over_frames_recovers_from_one_that_is_no_number():
    net = network(4, 5, 2)
    frames = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3, 4))).at[1, 0, 0].set(jnp.nan)

    @jax.jit
    def watch(y, x):
        found = irnn.equilibrium(net, x, y0=y)
        return found.activities, found.converged

    start = (jnp.zeros((3, 5)), jnp.zeros((3, 2)))
    last, flags = jax.lax.scan(watch, start, frames)
    assert flags.sum() == flags.size - 1
    assert not flags[1, 0]
    for a, b in zip(last, irnn.equilibrium(net, frames[-1]).activities, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_a_start_that_is_no_number_is_flagged_and_changes_no_other():
    net = network(4, 5, 2)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)))
    y0 = (jnp.zeros((3, 5)).at[1, 2].set(jnp.inf), jnp.zeros((3, 2)))
    found, well = irnn.equilibrium(net, x, y0=y0), irnn.equilibrium(net, x)
    assert found.converged.tolist() == [True, False, True]
    for a, b in zip(found.activities, well.activities, strict=True):
        np.testing.assert_allclose(a[::2], b[::2], rtol=0, atol=1e-14)


def test_convolutional_networks_start_where_they_are_told():
    net = irnn.conv.init(jax.random.key(0), (4, 4, 1), (2, 3), strides=(1, 2))
    rng = np.random.default_rng(0)
    net = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), net)
    x = jnp.asarray(rng.normal(size=(5, 4, 4, 1)))
    cold = irnn.equilibrium(net, x)
    warm = irnn.equilibrium(net, x, y0=cold.activities)
    assert warm.converged.all()
    assert warm.num_steps.max() < cold.num_steps.min()


def test_maps_that_start_from_what_is_no_number_are_flagged_and_come_back_as_zero():
    net = irnn.conv.init(jax.random.key(0), (4, 4, 1), (2,))
    net = jax.tree.map(lambda leaf: leaf + 0.1, net)
    found = irnn.equilibrium(
        net, jnp.ones((3, 4, 4, 1)), y0=(jnp.zeros((3, 4, 4, 2)).at[1, 0, 0, 0].set(jnp.nan),)
    )
    assert found.converged.tolist() == [True, False, True]
    assert found.status[1] == irnn.Status.NON_FINITE
    assert not found.activities[0][1].any()


def test_what_does_not_fit_is_refused():
    net, x = network(4, 5, 2), jnp.zeros((3, 4))
    with pytest.raises(ValueError, match="y0 has 1 entries, but the network has 2 layers"):
        irnn.apply(net, x, y0=(jnp.zeros((3, 5)),))
    with pytest.raises(ValueError, match=r"y0\[1\] has shape \(3, 5\), but \(3, 2\) fits"):
        irnn.apply(net, x, y0=(jnp.zeros((3, 5)), jnp.zeros((3, 5))))
    with pytest.raises(ValueError, match=r"y0\[0\] has dtype int"):
        irnn.apply(net, x, y0=(jnp.zeros((3, 5), int), jnp.zeros((3, 2))))
