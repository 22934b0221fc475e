"""How weights are drawn: their law, what is shared between networks, and names that are refused."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from tests.problems import relative_error

SIZES = (60, 20, 40)
SCALED = ["glorot", "lecun"]
FEED_FORWARD: dict[str, Any] = {"recurrent": False}


def init(name: str, sizes: tuple[int, ...] = SIZES, seed: int = 3, **options: Any) -> Any:
    return irnn.init(jax.random.key(seed), sizes, initialization=name, **options)


def matrices(net: irnn.Network) -> list[np.ndarray]:
    return [np.asarray(layer.feedforward) for layer in net.layers]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("options", [{}, FEED_FORWARD], ids=["recurrent", "feed_forward"])
def test_the_papers_is_the_default_and_uniform_in_the_unit_interval(options, dtype):
    net = init("paper", dtype=dtype, **options)
    default = irnn.init(jax.random.key(3), SIZES, dtype=dtype, **options)
    jax.tree.map(np.testing.assert_array_equal, net, default)
    # As it has been since the first version: whoever has a key has the network.
    keys = jax.random.split(jax.random.key(3), (2, 2))
    for layer, (of_weights, of_biases) in zip(net.layers, keys, strict=True):
        for drawn, key in ((layer.feedforward, of_weights), (layer.bias, of_biases)):
            expected = jax.random.uniform(key, drawn.shape, dtype, -0.5, 0.5)
            np.testing.assert_array_equal(drawn, expected)


def test_glorots_is_uniform_within_its_limit():
    for drawn in matrices(init("glorot")):
        limit = math.sqrt(6 / sum(drawn.shape))
        # Of 800 numbers and more the extremes are within 3 % of the limit, but for a chance of
        # 0.97^800 = 3e-11; the variance, of which the standard error is 0.9/sqrt(800), within 6.
        assert 0.97 * limit < drawn.max() <= limit
        assert -limit <= drawn.min() < -0.97 * limit
        assert abs(drawn.var() / (limit**2 / 3) - 1) < 6 * 0.9 / drawn.size**0.5
        assert abs(drawn.mean()) < 6 * limit / (3 * drawn.size) ** 0.5


def test_lecuns_is_normal_with_variance_1_by_fan_in():
    for drawn in matrices(init("lecun")):
        scaled = drawn * drawn.shape[1] ** 0.5
        error = scaled.size**-0.5
        assert abs(scaled.mean()) < 6 * error
        # The fourth moment is 3, and tells a normal law from a uniform (9/5) or a truncated one.
        assert abs(scaled.var() - 1) < 6 * math.sqrt(2) * error
        assert abs((scaled**4).mean() - 3) < 6 * math.sqrt(96) * error
        assert np.abs(scaled).max() > 2.5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", SCALED)
def test_everything_else_is_zero_and_the_twin_has_the_same_matrices(name, dtype):
    net, twin = init(name, dtype=dtype), init(name, dtype=dtype, **FEED_FORWARD)
    assert net.sizes == twin.sizes == SIZES
    assert {leaf.dtype for leaf in jax.tree.leaves((net, twin))} == {jnp.dtype(dtype)}
    assert not twin.is_recurrent
    jax.tree.map(np.testing.assert_array_equal, matrices(net), matrices(twin))
    others = [
        *net.feedback,
        *(leaf for layer in net.layers for leaf in (layer.lateral, layer.bias)),
    ]
    assert len(others) == 5
    assert not any(np.any(leaf) for leaf in others)
    assert not any(np.any(layer.bias) for layer in twin.layers)
    other = init(name, seed=4, dtype=dtype)
    assert not np.any(matrices(net)[0] == matrices(other)[0])


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize(
    "parametrization",
    [irnn.Certified(), irnn.Certified(slope_bound=1.0), irnn.Symmetric()],
    ids=["certified", "certified_tanh", "symmetric"],
)
def test_parametrised_networks_have_the_same_matrices(name, parametrization):
    plain, net = init(name), init(name, parametrization=parametrization).network()
    for actual, expected in zip(matrices(net), matrices(plain), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=4e-15)
    jax.tree.map(
        np.testing.assert_array_equal, *([la.bias for la in n.layers] for n in (net, plain))
    )


@pytest.mark.parametrize("name", SCALED)
def test_a_draw_larger_than_p_has_room_for_starts_smaller_and_is_certified(name):
    # Layers of two, many with |Q| of more than 1, which the paper's cannot have.
    sizes = (2,) * 9
    parametrization = irnn.Certified(slope_bound=1.0, scale_limit=0.05)
    params = init(name, sizes, parametrization=parametrization)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))
    drawn, net = matrices(init(name, sizes)), matrices(params.network())
    np.testing.assert_array_equal(net[0], drawn[0])
    factors = []
    for actual, expected in zip(net[1:], drawn[1:], strict=True):
        factors.append(np.vdot(actual, expected) / np.vdot(expected, expected))
        np.testing.assert_allclose(actual, factors[-1] * expected, rtol=0, atol=1e-13)
    assert 0.3 < min(factors) < 0.97
    assert max(factors) < 1 + 1e-13
    assert irnn.certify(params, slope_bound=1.0).is_certified


@pytest.mark.parametrize("name", ["paper", *SCALED])
def test_draws_are_vmapped(name):
    keys = jax.random.split(jax.random.key(5), 3)
    make = functools.partial(irnn.init, sizes=(3, 4, 2), initialization=name)
    nets = jax.jit(jax.vmap(make))(keys)
    own = jax.tree.map(lambda leaf: leaf[1], nets)
    assert relative_error(own, make(keys[1])) < 1e-15


@pytest.mark.usefixtures("without_runtime_types")
@pytest.mark.parametrize("name", ["xavier", "Glorot", "", None])
def test_an_unknown_name_is_refused(name):
    message = rf"unknown initialization {name!r}; there are 'paper', 'glorot', 'lecun'"
    with pytest.raises(ValueError, match=message):
        init(name)
