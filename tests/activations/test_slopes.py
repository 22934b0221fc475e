"""The slope that gradients are multiplied with, to rounding where the neuron is saturated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import irnn_jax as irnn
from irnn_jax.activations import accurate_slope


def test_the_slope_of_the_sigmoid_keeps_its_digits():
    x = np.array([-700, -40, -1.5, 0.0, 1e-9, 0.3, 40, 700])
    slope = accurate_slope(jax.nn.sigmoid, jnp.asarray(x))
    np.testing.assert_allclose(slope, expit(x) * expit(-x), rtol=1e-14)
    extreme = jnp.array([-np.inf, -1e300, 1e300, np.inf])
    np.testing.assert_array_equal(accurate_slope(jax.nn.sigmoid, extreme), 0)
    assert np.isnan(accurate_slope(jax.nn.sigmoid, jnp.asarray(np.nan)))


def test_the_slope_of_the_sigmoid_has_derivatives_everywhere():
    def slope(x):
        return accurate_slope(jax.nn.sigmoid, x)

    # f' = f - f^2, f'' = f' (1 - 2 f), f''' = f'' (1 - 2 f) - 2 f'^2, and |x| has a kink at 0.
    for x in (-2.0, 0.0, 0.7):
        f, at = expit(x), jnp.asarray(x)
        first = f * (1 - f)
        second = first * (1 - 2 * f)
        third = second * (1 - 2 * f) - 2 * first**2
        np.testing.assert_allclose(jax.grad(slope)(at), second, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(jax.grad(jax.grad(slope))(at), third, rtol=1e-13)
        np.testing.assert_allclose(jax.jacfwd(jax.grad(slope))(at), third, rtol=1e-13)


def _sech_squared(u):
    e = np.exp(-2 * np.abs(np.float64(u)))
    return 4 * e / (1 + e) ** 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.sigmoid], ids=["tanh", "sigmoid"])
@pytest.mark.parametrize("b", [-30.0, -9.0, 0.0, 2.0, 6.0, 16.0, 19.0, 30.0])
def test_a_saturated_neuron_has_a_gradient_to_rounding(activation, b, dtype):
    def out(b):
        layer = irnn.Layer(
            feedforward=jnp.zeros((1, 1), dtype), lateral=jnp.full((1, 1), 0.5, dtype), bias=b[None]
        )
        net = irnn.Network(layers=(layer,))
        return irnn.apply(net, jnp.zeros(1, dtype), activation=activation)[0]

    y, gradient = jax.value_and_grad(out)(jnp.asarray(b, dtype))
    u = 0.5 * np.float64(y) + b
    slope = _sech_squared(u) if activation is jnp.tanh else _sech_squared(u / 2) / 4
    right = slope / (1 - 0.5 * slope)
    np.testing.assert_allclose(gradient, right, rtol=1e-12 if dtype == np.float64 else 2e-5)


def test_a_custom_derivative_is_the_slope():
    @jax.custom_jvp
    def squareplus(x):
        return (x + jnp.sqrt(x * x + 4)) / 2

    @squareplus.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        root = jnp.sqrt(x * x + 4)
        # 1 + x/root without its cancellation.
        return squareplus(x), t * jnp.where(x < 0, 4 / (root * (root - x)), 1 + x / root) / 2

    x = np.array([-1e6, -30.0, 0.0, 30.0])
    right = [1e-12, 2 / (np.sqrt(904) * (np.sqrt(904) + 30)), 0.5, (1 + 30 / np.sqrt(904)) / 2]
    np.testing.assert_allclose(accurate_slope(squareplus, jnp.asarray(x)), right, rtol=1e-11)


def test_the_slope_of_softplus_and_relu_keeps_its_digits():
    x = np.array([-700, -40, -1.5, 0.0, 1e-9, 0.3, 40, 700])
    at = jnp.asarray(x)
    np.testing.assert_allclose(accurate_slope(jax.nn.softplus, at), expit(x), rtol=1e-14)
    np.testing.assert_array_equal(accurate_slope(jax.nn.relu, at), x > 0)
    # The curvature of softplus is the sigmoid's slope, and as accurate.
    curvature = jax.vmap(jax.grad(lambda x: accurate_slope(jax.nn.softplus, x)))(at)
    np.testing.assert_allclose(curvature, expit(x) * expit(-x), rtol=1e-13)
