"""The slope that gradients are multiplied with, to rounding where the neuron is saturated."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

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
