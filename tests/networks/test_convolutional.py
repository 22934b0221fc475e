"""Convolutional networks: the same as a dense network with their connections written out."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn

IMAGE, CHANNELS, STRIDES = (4, 4, 2), (2, 3), (1, 2)


def drawn(seed: int = 0, size: float = 0.4, **options: Any) -> irnn.conv.ConvNetwork:
    """With all kernels away from zero."""
    options = {"strides": STRIDES, **options}
    net = irnn.conv.init(jax.random.key(seed), IMAGE, CHANNELS, **options)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + size * rng.normal(size=leaf.shape), net)


def images(*batch: int, seed: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*batch, *IMAGE)))


def flat(activities: Any) -> jax.Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in activities])


def written_out(net: irnn.conv.ConvNetwork) -> irnn.Network:
    """A dense network of one layer, whose weights are differentiable in the kernels.

    Kernels enter linearly, so that what they make of unit maps are A, Q and T.
    """
    sizes = [math.prod(shape) for shape in net.state_shapes]
    cuts = np.cumsum(sizes)[:-1]

    def drives(y: jax.Array, x: jax.Array) -> jax.Array:
        parts = jnp.split(y, cuts)
        state = tuple(
            part.reshape(1, *shape) for part, shape in zip(parts, net.state_shapes, strict=True)
        )
        return flat(net.preactivations(state, net.drive(x.reshape(1, *IMAGE))))

    y, x = jnp.zeros(sum(sizes)), jnp.zeros(math.prod(IMAGE))
    matrix, weights = jax.jacobian(drives, argnums=(0, 1))(y, x)
    layer = irnn.Layer(feedforward=weights, lateral=matrix, bias=drives(y, x))
    return irnn.Network(layers=(layer,))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lateral": 1, "feedback": None},
        {"lateral": None, "kernel": (3, 2)},
        {"lateral": (1, 3), "strides": 1},
    ],
    ids=["all", "filters_at_a_place", "feedback_alone", "mixed"],
)
def test_it_is_the_dense_network_with_the_same_connections(options):
    net, x = drawn(**options), images(3)
    found = irnn.equilibrium(net, x)
    dense = irnn.equilibrium(written_out(net), x.reshape(3, -1))
    assert found.converged.all()
    assert dense.converged.all()
    for i in range(3):
        mine = flat([leaf[i] for leaf in found.activities])
        np.testing.assert_allclose(mine, dense.activities[0][i], rtol=0, atol=1e-11)


def test_the_gradient_is_that_of_the_dense_network():
    net, x = drawn(), images(3)
    c = jnp.asarray(np.random.default_rng(2).normal(size=sum(map(math.prod, net.state_shapes))))

    def loss(net, x):
        found = irnn.equilibrium(net, x)
        return sum(jnp.sin(flat([leaf[i] for leaf in found.activities]) @ c) for i in range(3))

    def loss_of_dense(net, x):
        y = irnn.equilibrium(written_out(net), x.reshape(3, -1)).activities[0]
        return jnp.sum(jnp.sin(y @ c))

    mine = jax.jit(jax.grad(loss, argnums=(0, 1)))(net, x)
    dense = jax.jit(jax.grad(loss_of_dense, argnums=(0, 1)))(net, x)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(dense), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1, np.abs(b).max()))


def test_the_gradient_is_that_of_central_differences():
    net, x = drawn(), images(2)
    rng = np.random.default_rng(3)
    way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), net)

    @jax.jit
    def loss(h):
        moved = jax.tree.map(lambda leaf, d: leaf + h * d, net, way)
        return jnp.sum(irnn.apply(moved, x) ** 2)

    # Of fourth order: the error of the equilibria is divided by a larger step.
    h = 1e-3
    slope = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    np.testing.assert_allclose(jax.grad(loss)(0.0), slope, rtol=1e-7)


def test_flags_penalty_and_stability_are_those_of_the_dense_network():
    net, x = drawn(size=0.8), images(4)
    dense, flat_x = written_out(net), x.reshape(4, -1)
    np.testing.assert_allclose(
        irnn.jacobian_penalty(net, x), irnn.jacobian_penalty(dense, flat_x), rtol=1e-9
    )
    mine, exact = irnn.stability(net, x), irnn.stability(dense, flat_x)
    # Forty products on 44 neurons.
    np.testing.assert_allclose(mine.abscissa, exact.abscissa, atol=1e-3)
    assert (mine.is_stable == exact.is_stable).all()


def test_a_sample_that_is_no_number_is_flagged_and_changes_no_other():
    net, x = drawn(), images(3)
    bad = x.at[1, 0, 0, 0].set(jnp.nan)
    found, well = irnn.equilibrium(net, bad), irnn.equilibrium(net, x)
    assert found.converged.tolist() == [True, False, True]
    assert found.status[1] == irnn.Status.NON_FINITE
    for a, b in zip(found.activities, well.activities, strict=True):
        np.testing.assert_array_equal(a[::2], b[::2])
        assert not a[1].any()
    gradient = jax.grad(lambda net: irnn.apply(net, bad).sum())(net)
    expected = jax.grad(lambda net: irnn.apply(net, x[::2]).sum())(net)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1, np.abs(b).max()))


def test_the_twin_has_the_same_kernels_and_is_passed_once():
    net = irnn.conv.init(jax.random.key(0), IMAGE, CHANNELS, strides=STRIDES)
    twin = irnn.conv.init(jax.random.key(0), IMAGE, CHANNELS, strides=STRIDES, recurrent=False)
    x = images(2)
    found = irnn.equilibrium(twin, x)
    assert not twin.is_recurrent
    assert found.converged.all()
    assert not found.num_steps.any()
    # The recurrent kernels start at zero.
    np.testing.assert_allclose(irnn.apply(net, x), found.activities[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("recurrent", [True, False])
def test_what_has_no_equilibrium_is_thrown_when_asked_for(recurrent):
    net = irnn.conv.init(jax.random.key(0), IMAGE, CHANNELS, strides=STRIDES, recurrent=recurrent)
    with pytest.raises(RuntimeError, match="no equilibrium was reached"):
        jax.block_until_ready(irnn.apply(net, images(2).at[0].set(jnp.nan), throw=True))


def test_leading_axes_vmap_and_jit():
    net, x = drawn(), images(2, 3)
    found = jax.jit(irnn.equilibrium)(net, x)
    assert [leaf.shape for leaf in found.activities] == [(2, 3, 4, 4, 2), (2, 3, 2, 2, 3)]
    assert found.converged.shape == (2, 3)
    mapped = jax.vmap(lambda x: irnn.apply(net, x))(x)
    np.testing.assert_allclose(mapped, found.activities[-1], rtol=0, atol=1e-11)
    one = irnn.equilibrium(net, x[0, 0])
    assert one.converged.shape == ()
    assert one.activities[0].shape == (4, 4, 2)
    assert irnn.apply(net, x[:0]).shape == (0, 3, 2, 2, 3)


def test_each_layer_may_have_its_activation():
    net, x = drawn(size=0.1), images(2)
    y = irnn.equilibrium(net, x, activation=(jnp.tanh, jax.nn.sigmoid)).activities
    driven = net.preactivations(y, net.drive(x))
    np.testing.assert_allclose(y[0], jnp.tanh(driven[0]), rtol=0, atol=1e-11)
    np.testing.assert_allclose(y[1], jax.nn.sigmoid(driven[1]), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("message", "image", "channels", "options"),
    [
        ("does not divide the maps below, 4 x 4", (4, 4, 1), (2, 2), {"strides": (1, 3)}),
        ("image must be", (4, 4), (2,), {}),
        ("channels must be positive integers", (4, 4, 1), (0,), {}),
        ("kernel has 3 entries, but 2 fit", (4, 4, 1), (2, 2), {"kernel": (3, 3, 3)}),
        ("no recurrent kernels to parametrise", (4, 4, 1), (2,), {"recurrent": False}),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_drawn(message, image, channels, options):
    if "parametrise" in message:
        options = {**options, "parametrization": irnn.conv.Certified()}
    with pytest.raises(ValueError, match=message):
        irnn.conv.init(jax.random.key(0), image, channels, **options)


def test_what_does_not_fit_is_refused_at_the_door():
    net, x = drawn(), images(2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 4, 4, 1\), but the network takes"):
        irnn.apply(net, x[..., :1])
    with pytest.raises(ValueError, match="activation has 3 entries, but the network has 2 layers"):
        irnn.apply(net, x, activation=(jnp.tanh,) * 3)
    wrong = net.layers[0]._replace(lateral=jnp.zeros((3, 3, 2, 3)))
    changed = irnn.conv.ConvNetwork(
        layers=(wrong, net.layers[1]), feedback=net.feedback, image=IMAGE, strides=STRIDES
    )
    with pytest.raises(ValueError, match=r"layers\[0\].lateral has shape"):
        irnn.apply(changed, x)
    with pytest.raises(ValueError, match="convolutional"):
        irnn.jacobians(net, x[0])
    with pytest.raises(ValueError, match="convolutional"):
        irnn.certify(net)
