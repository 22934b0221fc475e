"""The oscillator's closed form against an ODE solver, and its derivatives."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irnn_jax.data import Oscillator, OscillatorData, trajectory

TIMES = np.linspace(0.0, 9.9, 100)
# (omega0, delta): under-, critically and over-damped, and both sides of critical.
CASES = np.array(
    [(1.5, 0.3), (2.0, 0.0), (1.0, 2.0), (1.3, 1.6), (1.0, 30.0)]
    + [(1.4, 1.4 + gap) for gap in (0.0, 1e-12, -1e-12, 1e-6, -1e-6, 1e-3, -1e-3, 0.1, -0.1)]
)
DATA = OscillatorData()


def _oscillators(dtype: type = np.float64) -> Oscillator:
    start = np.random.default_rng(0).normal(scale=2.0, size=(2, len(CASES)))
    return Oscillator(*(jnp.asarray(leaf, dtype) for leaf in (*start, *CASES.T)))


def _exact(oscillator: Oscillator, times) -> np.ndarray:
    """The textbook formula in extended precision, where complex k serves every damping."""
    leaves = (np.asarray(leaf, np.longdouble)[..., None] for leaf in oscillator)
    x0, v0, omega0, delta = leaves
    t = np.asarray(times, np.longdouble)
    k = np.sqrt(((delta - omega0) * (delta + omega0)).astype(np.clongdouble))
    sine = np.where(k == 0, t, np.sinh(k * t) / np.where(k == 0, 1, k))
    return (np.exp(-delta * t) * (x0 * np.cosh(k * t) + (v0 + delta * x0) * sine)).real


def _scaled_error(actual, expected) -> np.ndarray:
    """The largest error of each trajectory over the largest position in it."""
    expected = np.asarray(expected, np.longdouble)
    return np.abs(np.asarray(actual) - expected).max(-1) / np.abs(expected).max(-1)


def test_trajectory_solves_the_equation():
    def force(t, state, oscillator):
        x, v = state
        return v, -2 * oscillator.delta * v - oscillator.omega0**2 * x

    @jax.jit
    @jax.vmap
    def integrate(oscillator):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(force),
            diffrax.Dopri8(),
            t0=0.0,
            t1=TIMES[-1],
            dt0=None,
            y0=(oscillator.position, oscillator.velocity),
            args=oscillator,
            saveat=diffrax.SaveAt(ts=jnp.asarray(TIMES)),
            stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-12),
        ).ys

    oscillators = _oscillators()
    position, _ = integrate(oscillators)
    error = _scaled_error(trajectory(oscillators, TIMES), position)
    assert error.max() < 1e-9  # some hundred steps, each off by at most 1e-12 times the state


# Up to 20 rad of phase carry about three half-roundings; up to 3 rad, no more than the sums do.
@pytest.mark.parametrize(("horizon", "roundings"), [(9.9, 30), (1.5, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_trajectory_is_accurate_to_rounding(dtype, horizon, roundings):
    drawn = DATA.draw(np.arange(2000), dtype)
    oscillators = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), _oscillators(dtype), drawn)
    times = np.linspace(0, horizon, 100).astype(dtype)
    actual = trajectory(oscillators, times)
    assert actual.dtype == dtype
    error = _scaled_error(actual, _exact(oscillators, times))
    assert error.max() < roundings * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_point_is_accurate_near_critical_damping(dtype):
    # Started outwards x keeps its sign, so its relative error is defined long after x has
    # become small beside its start.  e^(-delta t) has one of delta t/2 eps, 30 at t = 40; an
    # error of one eps in omega0^2 - delta^2 would make it t^2/6, some hundreds.
    omega0 = jnp.asarray(1.3 + 0.1 * np.arange(20) / 20, dtype)
    delta = omega0 * jnp.asarray(1 + 1e-3 * np.arange(20) / 20, dtype)
    oscillators = Oscillator(position=omega0, velocity=omega0, omega0=omega0, delta=delta)
    times = np.linspace(0, 40, 100).astype(dtype)
    actual = np.asarray(trajectory(oscillators, times))
    error = np.abs(actual / _exact(oscillators, times) - 1)
    assert error.max() < 60 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_strong_damping_neither_overflows_nor_cancels(dtype):
    # e^(delta t) is far beyond any float; x decays with the slow rate omega0^2/(2 delta).
    one, delta = jnp.ones((), dtype), jnp.asarray(1e4, dtype)
    times = np.array([0.0, 1.0, 1e3, 1e4], dtype)
    actual = trajectory(Oscillator(position=one, velocity=0 * one, omega0=one, delta=delta), times)
    expected = np.exp(-times.astype(float) / 2e4)
    # Of order 1/delta^2 = 1e-8 is what this one-term expansion leaves out.
    np.testing.assert_allclose(actual, expected, rtol=2e-8 + 4 * np.finfo(dtype).eps)


def _derivatives(oscillators: Oscillator, times) -> Oscillator:
    """dx/d(leaf) for each leaf, (oscillators, times) each: one oscillator depends on its own."""

    def derivative(name):
        along = lambda leaf: trajectory(oscillators._replace(**{name: leaf}), times)  # noqa: E731
        leaf = getattr(oscillators, name)
        return jax.jvp(along, (leaf,), (jnp.ones_like(leaf),))[1]

    return Oscillator(**{name: derivative(name) for name in Oscillator._fields})


def _central(function, oscillators: Oscillator, name: str, h: float):
    """Fourth-order central difference: error ~ h^4 t^5 |x| / 30 and eps |x| / h."""
    leaf = getattr(oscillators, name)
    at = lambda step: function(oscillators._replace(**{name: leaf + step * h}), TIMES)  # noqa: E731
    near = jax.tree.map(jnp.subtract, at(1), at(-1))
    far = jax.tree.map(jnp.subtract, at(2), at(-2))
    return jax.tree.map(lambda one, two: (8 * one - two) / (12 * h), near, far)


@pytest.mark.parametrize("name", Oscillator._fields)
def test_derivatives_are_central_differences(name):
    oscillators = _oscillators()
    actual = getattr(jax.jit(_derivatives)(oscillators, TIMES), name)
    expected = _central(trajectory, oscillators, name, h=3e-4)
    assert np.isfinite(actual).all()
    assert _scaled_error(actual, expected).max() < 1e-9


def test_second_derivatives_are_central_differences_of_the_first():
    oscillators = _oscillators()

    @jax.jit
    def second(oscillators):
        along = lambda leaf: _derivatives(oscillators._replace(omega0=leaf), TIMES)  # noqa: E731
        leaf = oscillators.omega0
        return jax.jvp(along, (leaf,), (jnp.ones_like(leaf),))[1]

    hessian = second(oscillators)
    expected = _central(jax.jit(_derivatives), oscillators, "omega0", h=3e-4)
    for name in Oscillator._fields:
        # Ten times looser than above: one more factor t in what both error terms scale with.
        error = _scaled_error(getattr(hessian, name), getattr(expected, name))
        assert error.max() < 1e-8, name


def test_reverse_mode_agrees_with_forward_mode():
    oscillators = _oscillators()
    weight = np.random.default_rng(1).normal(size=(len(CASES), len(TIMES)))
    reverse = jax.jit(jax.grad(lambda o: jnp.vdot(weight, trajectory(o, TIMES))))(oscillators)
    derivatives = jax.jit(_derivatives)(oscillators, TIMES)
    forward = jax.tree.map(lambda leaf: (weight * leaf).sum(-1), derivatives)
    for actual, expected in zip(reverse, forward, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


@jax.jit
def _value_and_gradient(oscillator, times):
    return trajectory(oscillator, times), jax.grad(lambda o: trajectory(o, times).sum())(oscillator)


def test_late_times_overflow_nothing():
    oscillators = _oscillators(np.float32)  # t^2 is beyond float32, and only a phase is lost
    at_critical = np.asarray(oscillators.omega0 == oscillators.delta)
    oscillators = jax.tree.map(lambda leaf: leaf[~at_critical], oscillators)
    x, gradient = _value_and_gradient(oscillators, np.array([1e20], np.float32))
    start = np.hypot(oscillators.position, oscillators.velocity / oscillators.omega0)
    assert (np.abs(x[:, 0]) <= 1.00001 * start).all()
    assert all(np.isfinite(leaf).all() for leaf in gradient)


START = st.floats(-20, 20, width=32)
RATE = st.floats(0, 100, width=32)
GAP = st.sampled_from([0.0, 1e-16, 1e-14, 1e-7, 1e-4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(derandomize=True, database=None, deadline=None, max_examples=150)
@given(
    x0=START,
    v0=START,
    omega0=st.floats(0.125, 100, width=32),
    delta=RATE | GAP,
    critical=st.booleans(),
)
def test_energy_bounds_every_trajectory(dtype, x0, v0, omega0, delta, critical):
    # `delta` is the damping rate itself or its relative distance from critical damping.
    delta = omega0 * (1 + delta) if critical and delta < 1 else delta
    oscillator = Oscillator(*(dtype(value) for value in (x0, v0, omega0, delta)))
    times = np.array([0, 1e-6, 0.1, 1, 9.9, 100, 1e4, 1e12], dtype)
    x, gradient = _value_and_gradient(oscillator, times)
    # omega0^2 x^2 + x'^2 never grows; the slack is rounding, of cosine and sine but not of their
    # common phase, which at late times is arbitrary.
    bound = np.hypot(float(x0), float(v0) / float(omega0))
    assert np.all(np.abs(x) <= bound * (1 + 1e-5) + np.finfo(dtype).tiny)
    assert all(np.isfinite(leaf) for leaf in gradient)


def test_trajectory_broadcasts_its_leaves():
    column, row = 1.0 + jnp.arange(3.0)[:, None], 1.0 + jnp.arange(4.0)
    half = jnp.asarray(0.5)
    x = trajectory(Oscillator(position=column, velocity=half, omega0=row, delta=half), TIMES)
    assert x.shape == (3, 4, 100)
    single = Oscillator(position=column[2, 0], velocity=half, omega0=row[1], delta=half)
    np.testing.assert_allclose(x[2, 1], trajectory(single, TIMES), rtol=0, atol=1e-14)


def test_trajectory_at_no_times():
    assert trajectory(_oscillators(), TIMES[:0]).shape == (len(CASES), 0)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_times_have_one_axis(shape):
    with pytest.raises(ValueError, match="times must have one axis"):
        trajectory(_oscillators(), np.ones(shape))
