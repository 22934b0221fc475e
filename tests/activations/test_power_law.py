"""k [u]_+^n: values, slopes, and derivatives without NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import irnn_jax as irnn
from irnn_jax.activations import accurate_slope, slope_bound

POINTS = np.array([-1e300, -3.0, 0.0, 1e-200, 1e-8, 0.4, 2.0, 50.0])


@pytest.mark.parametrize("power", [1, 1.5, 2, 3.3])
def test_value_and_slope(power):
    f, positive = irnn.PowerLaw(gain=0.7, power=power), np.maximum(POINTS, 0)
    np.testing.assert_allclose(f(jnp.asarray(POINTS)), 0.7 * positive**power, rtol=1e-13)
    slope = np.where(POINTS > 0, 0.7 * power * positive ** (power - 1), 0)
    np.testing.assert_allclose(accurate_slope(f, jnp.asarray(POINTS)), slope, rtol=1e-13)
    assert slope_bound(f) == (0.7 if power == 1 else None)


@pytest.mark.parametrize("power", [1, 1.5, 2, 3.3])
def test_no_derivative_is_nan_and_no_nan_is_lost(power):
    f = irnn.PowerLaw(gain=0.7, power=power)
    for u in (-2.0, 0.0):
        derivative = f
        for _ in range(3):
            derivative = jax.grad(derivative)
            assert derivative(u) == 0
    assert np.isnan(f(jnp.asarray(np.nan)))
    assert f(jnp.zeros(2, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gain": 0.0}, "gain must be positive, got 0.0"),
        ({"gain": np.inf}, "gain must be positive, got inf"),
        ({"power": 0.5}, "power must be at least 1, got 0.5"),
        ({"power": np.nan}, "power must be at least 1, got nan"),
        ({"gain": jnp.ones(2)}, "gain must be a number"),
    ],
)
@pytest.mark.usefixtures("without_runtime_types")
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        irnn.PowerLaw(**options)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_stabilised_supralinear_network(dtype):
    A = np.array([[1.25, -0.65], [1.2, -0.5]])
    net = irnn.Network(
        layers=(
            irnn.Layer(
                feedforward=jnp.ones((2, 1), dtype),
                lateral=jnp.asarray(A, dtype),
                bias=jnp.zeros(2, dtype),
            ),
        )
    )
    f = irnn.PowerLaw(gain=0.04, power=2.0)
    x = jnp.array([[2.0], [10.0], [30.0]], dtype)
    constants = (jnp.array([2.0, 1.0], dtype),)

    def loss(x):
        found = irnn.equilibrium(net, x, activation=f, time_constants=constants)
        return jnp.sum(found.activities[0][:, 0]), found

    gradient, found = jax.jit(jax.grad(loss, has_aux=True))(x)
    assert np.all(found.converged)
    for sample, drive in enumerate([2.0, 10.0, 30.0]):

        def velocity(t, y, drive=drive):
            return (0.04 * np.maximum(A @ y + drive, 0) ** 2 - y) / [2, 1]

        y = solve_ivp(velocity, (0, 300), np.zeros(2), "LSODA", rtol=1e-11, atol=1e-13).y[:, -1]
        slope = 0.08 * np.maximum(A @ y + drive, 0)
        right = np.linalg.solve(np.eye(2) - slope[:, None] * A, slope)[0]
        rtol = 1e-8 if dtype == jnp.float64 else 1e-4
        np.testing.assert_allclose(found.activities[0][sample], y, rtol=rtol)
        np.testing.assert_allclose(gradient[sample, 0], right, rtol=rtol)
