"""Forward mode, sample by sample: what fails, what is asked for, what is refused."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.special import expit

import irnn_jax as irnn
from tests.problems import (
    CHEAP,
    NETWORKS,
    inputs,
    network,
    random_gradients,
    relative_error,
)

BOTH = irnn.Exact(forward_mode=True)
ROUNDING = 1e-12
slow = pytest.mark.slow


# --- samples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("drive", [40.0, -40.0])
def test_a_saturated_neuron_has_an_accurate_tangent(drive):
    one = jnp.ones((1, 1))
    net = irnn.Network(layers=(irnn.Layer(feedforward=one, lateral=0.5 * one, bias=jnp.zeros(1)),))
    found = jax.jvp(
        lambda x: irnn.apply(net, x, gradient=BOTH), (jnp.array([drive]),), (jnp.ones(1),)
    )[1]
    u = drive + 0.5 * expit(drive)
    slope = expit(u) * expit(-u)
    np.testing.assert_allclose(found, [slope / (1 - 0.5 * slope)], rtol=1e-12)


def _batch_of_cells(x: Any, w: Any, **options: Any) -> Any:
    def cell(w, y, x):
        return jnp.tanh(w * y + x)

    options = {"batched": True, "solver": CHEAP, "gradient": BOTH, **options}
    return irnn.fixed_point(cell, w, x, jnp.zeros((3, 1)), **options).activities


def _single_cells(x: Any, w: Any, **options: Any) -> Any:
    def cell(w, y, x):
        return jnp.tanh(w * y + x)

    options = {"solver": CHEAP, "gradient": BOTH, **options}
    return jax.vmap(lambda x: irnn.fixed_point(cell, w, x, jnp.zeros(1), **options).activities)(x)


def _neurons(x: Any, w: Any, **options: Any) -> Any:
    layer = irnn.Layer(
        feedforward=jnp.ones((1, 1)), lateral=jnp.reshape(w, (1, 1)), bias=jnp.zeros(1)
    )
    options = {"solver": CHEAP, "gradient": BOTH, "activation": jnp.tanh, **options}
    return irnn.apply(irnn.Network(layers=(layer,)), x, **options)


FORMS = {"batched": _batch_of_cells, "vmapped": _single_cells, "network": _neurons}


def _known(w: float, x: np.ndarray) -> np.ndarray:
    """dy/dw of y = tanh(w y + x)."""
    y = np.zeros_like(x)
    for _ in range(500):
        y = np.tanh(w * y + x)
    return (1 - y**2) * y / (1 - w * (1 - y**2))


@pytest.mark.parametrize("form", ["batched", "network", pytest.param("vmapped", marks=slow)])
def test_a_sample_beside_one_that_is_not_a_number(form):
    x = jnp.array([[0.3], [jnp.nan], [0.5]])

    @jax.jit
    def derivatives(w):
        def along(w):
            # The bad sample's own tangent is not a number either.
            return jax.jvp(lambda x, w: FORMS[form](x, w), (x, w), (jnp.where(x != x, x, 0), 1.0))[
                1
            ]

        def total(w):
            return jnp.sum(jnp.where(x == x, FORMS[form](x, w), 0))

        return along(w), jax.jvp(jax.grad(total), (w,), (1.0,))[1]

    tangent, second = derivatives(0.4)
    good = np.array([0.3, 0.5])
    np.testing.assert_allclose(tangent[:, 0], np.insert(_known(0.4, good), 1, 0), rtol=1e-10)
    step = 1e-5
    expected = np.sum(_known(0.4 + step, good) - _known(0.4 - step, good)) / (2 * step)
    np.testing.assert_allclose(second, expected, rtol=1e-8)


# tanh(y) - y is singular at y = 0, where the flow from 0 rests.
FOLD = jnp.array([[0.0], [1.0], [0.5]])
WAYS = {
    "forward": lambda f, w: jnp.sum(jax.jvp(f, (w,), (1.0,))[1]),
    "reverse": lambda f, w: jax.grad(lambda w: f(w).sum())(w),
}


@pytest.mark.parametrize(
    ("form", "way"),
    [
        ("batched", "forward"),
        ("network", "reverse"),
        pytest.param("batched", "reverse", marks=slow),
        pytest.param("network", "forward", marks=slow),
    ],
)
def test_a_solve_that_fails_is_left_out_as_asked_for(form, way):
    def derivative(**options):
        def state(w):
            x = FOLD + (w - 1) * jnp.array([[1.0], [0.0], [0.0]])
            return FORMS[form](x, w, solver=irnn.Auto(), **options)

        found = WAYS[way](state, 1.0)
        jax.block_until_ready(found)
        jax.effects_barrier()
        return found

    expected = np.sum(_known(1.0, np.array([1.0, 0.5])))
    with pytest.warns(RuntimeWarning, match=r"irnn_jax: 1 sample\(s\) left out of a derivative"):
        np.testing.assert_allclose(derivative(), expected, rtol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(derivative(adjoint_failure="zero"), expected, rtol=1e-9)
        assert jnp.isnan(derivative(adjoint_failure="nan"))
    with pytest.raises(Exception, match="linear solve for a derivative"):
        derivative(throw=True)


@pytest.mark.parametrize("way", WAYS)
def test_the_tolerance_and_the_solver_are_honoured(way):
    """A solver that gives up after a step leaves more than the tolerance, unless that is large."""

    def cell(w, y, x):
        return jnp.tanh(w * (jnp.roll(y, 1) - 0.5 * y) + x)

    def derivative(tolerance):
        one_step = lx.BiCGStab(rtol=1e-12, atol=1e-12, max_steps=1)
        mode = irnn.Exact(forward_mode=True, linear_solver=one_step, tolerance=tolerance)

        def state(w):
            options: Any = {"solver": CHEAP, "gradient": mode, "adjoint_failure": "zero"}
            return irnn.fixed_point(cell, w, jnp.arange(4.0), jnp.zeros(4), **options).activities

        return jax.jit(lambda w: WAYS[way](state, w))(0.4)

    assert derivative(None) == 0
    assert derivative(10.0) != 0


# --- the rest of JAX ----------------------------------------------------------------------------


def test_vmap_of_networks_and_scan():
    net = network((2, 2, 1), scale=0.7)
    x, direction = inputs(net), random_gradients(net, 3)

    def tangent(net, x):
        return jax.jvp(
            lambda net: irnn.apply(net, x, solver=CHEAP, gradient=BOTH), (net,), (direction,)
        )[1]

    nets = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), net)
    found = jax.jit(jax.vmap(tangent, (0, None)))(nets, x)
    scanned = jax.jit(lambda net: jax.lax.scan(lambda c, x: (c, tangent(net, x)), 0.0, x)[1])(net)
    expected = jax.jit(tangent)(net, x)
    assert relative_error(found[0], expected) < ROUNDING
    assert relative_error(scanned, expected) < ROUNDING


@pytest.mark.usefixtures("strict_promotion")
def test_float32_under_strict_promotion_and_without_leaks():
    net = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), NETWORKS["one_layer"])
    x = inputs(net).astype(jnp.float32)
    with jax.checking_leaks():
        result, tangent = jax.jvp(
            lambda x: irnn.equilibrium(net, x, gradient=BOTH), (x,), (jnp.ones_like(x),)
        )
    wide = jax.jvp(
        lambda x: irnn.apply(NETWORKS["one_layer"], x, gradient=BOTH),
        (inputs(net),),
        (jnp.ones((3, 2)),),
    )[1]
    assert result.converged.all()
    assert tangent.activities[0].dtype == jnp.float32
    np.testing.assert_allclose(tangent.activities[0], wide, rtol=1e-5)
    # Diagnostics have no derivative.
    for name in ("residual", "sensitivity"):
        np.testing.assert_array_equal(getattr(tangent, name), np.zeros(3))
    for name in ("num_steps", "converged", "status"):
        assert getattr(tangent, name).dtype == jax.dtypes.float0


# --- cells with rules of their own --------------------------------------------------------------


@jax.custom_vjp
def _own_tanh(u):
    return jnp.tanh(u)


_own_tanh.defvjp(lambda u: (jnp.tanh(u), u), lambda u, g: (g * (1 - jnp.tanh(u) ** 2),))


def test_a_cell_with_a_custom_vjp_goes_forward():
    def tangent(f):
        def state(w):
            start, options = jnp.zeros(()), {"solver": CHEAP, "gradient": BOTH}
            found = irnn.fixed_point(lambda w, y, x: f(w * y + x), w, 0.5, start, **options)
            return found.activities

        return jax.jit(lambda w: jax.jvp(state, (w,), (1.0,))[1])(0.4)

    np.testing.assert_allclose(tangent(_own_tanh), tangent(jnp.tanh), rtol=ROUNDING)


def _nested(w: Any, inner: Any) -> Any:
    start = jnp.zeros(())

    def inside(w, z, u):
        return jnp.tanh(w * z + u)

    def cell(w, y, x):
        z = irnn.fixed_point(inside, w, y + x, start, solver=CHEAP, gradient=inner)
        return 0.3 * z.activities

    return irnn.fixed_point(cell, w, 0.5, start, solver=CHEAP, gradient=BOTH).activities


def test_an_equilibrium_in_a_cell_must_go_forward_too():
    with pytest.raises(TypeError, match="equilibrium inside of the cell forward_mode=True too"):
        jax.jvp(lambda w: _nested(w, irnn.Exact()), (0.4,), (1.0,))


@pytest.mark.slow
def test_an_equilibrium_in_a_cell():
    found = jax.jit(lambda w: jax.jvp(lambda w: _nested(w, BOTH), (w,), (1.0,))[1])(0.4)
    value = jax.jit(lambda w: _nested(w, BOTH))
    assert relative_error(found, (value(0.4 + 1e-5) - value(0.4 - 1e-5)) / 2e-5) < 1e-8


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["batched", "network"])
def test_a_probe_is_refused(form):
    with pytest.raises(ValueError, match="a probe is reported to by a reverse-mode rule alone"):
        FORMS[form](FOLD, 0.5, probe=irnn.adjoint_probe((3,)))


def test_a_training_step_is_refused():
    with pytest.raises(ValueError, match="a training step reports on its adjoint solves"):
        irnn.make_train_step(irnn.squared_error, irnn.adam(0.01), gradient=BOTH)
