"""Masks to be had."""

import jax
import numpy as np
import pytest

import irnn_jax as irnn
from tests.problems import network

PLAIN = irnn.init(jax.random.key(0), (20, 30, 10, 40), skips=("0->2", "3->1"))


def test_no_self_connections():
    masks = irnn.no_self_connections(PLAIN)
    assert set(masks) == {f"layers[{i}].lateral" for i in range(3)}
    for mask, size in zip(masks.values(), (30, 10, 40), strict=True):
        np.testing.assert_array_equal(mask, 1 - np.eye(size))
    assert irnn.no_self_connections(irnn.init(jax.random.key(0), (2, 2), recurrent=False)) == {}


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_a_random_mask_has_the_density(density, getkey):
    key = getkey()
    masks = irnn.random_mask(key, PLAIN, density)
    names = {"layers[0].feedforward", "layers[2].lateral", "feedback[1]", "skips['3->1']"}
    assert names < set(masks)
    assert len(masks) == 3 + 3 + 2 + 2
    for mask in masks.values():
        assert mask.sum() == round(density * mask.size)
    net = irnn.masked(PLAIN, masks).network()
    left = np.count_nonzero(net.layers[0].feedforward)
    assert left == round(density * 600)
    again = irnn.random_mask(key, PLAIN, density)
    other = irnn.random_mask(getkey(), PLAIN, density)
    assert all(np.array_equal(masks[name], again[name]) for name in masks)
    if density < 1:
        assert not any(np.array_equal(masks[name], other[name]) for name in masks)
        # Of one shape, but not the same.
        assert not np.array_equal(masks["layers[1].feedforward"], masks["feedback[0]"].T)


def test_random_masks_under_vmap_are_those_of_a_key_from_outside():
    of_masks = jax.random.key(1)

    def start(key):
        net = irnn.init(key, (2, 5, 2))
        return irnn.masked(net, irnn.random_mask(of_masks, net, 0.4)).network()

    nets = jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(0), 3))
    there = np.asarray(nets.layers[0].feedforward) != 0
    assert there.sum() == 3 * 4
    np.testing.assert_array_equal(there, there[:1].repeat(3, axis=0))


def test_a_local_mask_is_a_band():
    i, j = np.mgrid[:6, :6]
    np.testing.assert_array_equal(irnn.local_mask((6, 6), 2.0), abs(i - j) <= 2)
    np.testing.assert_array_equal(irnn.local_mask((6, 6), 0.0), np.eye(6))
    # Neurons of two layers at 1, 3 and at 0.5, 1.5, 2.5, 3.5.
    expected = [[1, 1, 0, 0], [0, 0, 1, 1]]
    np.testing.assert_array_equal(irnn.local_mask((2, 4), 0.5), expected)
    # And at 1/2 of two, in units of the source's neurons: 0.25, 0.75, 1.25, 1.75 of 0.5, 1.5.
    np.testing.assert_array_equal(irnn.local_mask((4, 2), 0.5), np.transpose(expected))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: irnn.random_mask(jax.random.key(0), PLAIN, 0.0), "density must be above 0"),
        (lambda: irnn.random_mask(jax.random.key(0), PLAIN, 1.5), "at most 1, got 1.5"),
        (
            lambda: jax.jit(lambda key: irnn.random_mask(key, network((2, 2)), 0.5))(
                jax.random.key(0)
            ),
            "the key of a random mask is traced",
        ),
        (lambda: irnn.local_mask((3,), 1.0), "shape must be that of a weight matrix"),  # pyright: ignore[reportArgumentType]
        (lambda: irnn.local_mask((3, 3), -1.0), "radius must be at least 0, got -1"),
    ],
)
@pytest.mark.usefixtures("without_runtime_types")
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
