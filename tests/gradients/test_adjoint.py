"""The backward pass checks itself: what fails is left out of the gradient, and reported."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax.gradients.base import relative_residual
from irnn_jax.linalg.layout import NEURONS_FIRST
from irnn_jax.linearisation import Linearisation
from tests.problems import (
    CHEAP,
    NETWORKS,
    inputs,
    oscillator,
    relative_error,
    scalar_neuron,
)


def _report(net: irnn.Network, x: Any, **options: Any) -> tuple[irnn.Network, irnn.AdjointReport]:
    """The gradient of the sum of the outputs, and what the backward pass says about itself."""

    options = {"solver": CHEAP} | options

    def loss(net, probe):
        return irnn.apply(net, x, probe=probe, **options).sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return gradients(net, irnn.adjoint_probe(x.shape[:-1]))


def pitchfork() -> irnn.Network:
    """Y = tanh(Y + X): at X = 0 rests at 0, where the slope is one and 1 - D A is singular."""
    one = jnp.ones((1, 1))
    layer = irnn.Layer(feedforward=one, lateral=one, bias=jnp.zeros(1))
    return irnn.Network(layers=(layer,))


def test_a_singular_adjoint_is_left_out_and_reported():
    net, x = pitchfork(), jnp.array([[0.0], [1.0], [0.5]])
    # Neither attracting nor repelling: it only counts where that is not asked.
    gradient, report = _report(
        net, x, activation=jnp.tanh, solver=irnn.PseudoTransient(), check_stability=False
    )
    np.testing.assert_array_equal(report.failed, [1, 0, 0])
    assert not report.residual[0] <= 1e-8
    assert np.all(report.residual[1:] < 1e-14)
    # Of the two others: dY/dT = f'/(1 - f'), times Y for W and X for Q.
    y = np.zeros((2, 1))
    for _ in range(100):
        y = np.tanh(y + x[1:])
    slope = 1 - y**2
    u = slope / (1 - slope)
    expected = irnn.Layer(
        feedforward=(u * x[1:]).sum(keepdims=True),
        lateral=(u * y).sum(keepdims=True),
        bias=u.sum(axis=0),
    )
    # The slopes 1 - y^2 of y = 0.9 and 0.8 lose a digit, here and there.
    assert relative_error(gradient, irnn.Network(layers=(expected,))) < 1e-13


def test_a_healthy_report_has_one_entry_for_each_sample():
    net = NETWORKS["two_layers"]
    expected, report = _report(net, inputs(net, batch=6).reshape(2, 3, 2))
    assert report.residual.shape == report.failed.shape == (2, 3)
    assert np.all(report.residual < 1e-14)  # a few roundings
    np.testing.assert_array_equal(report.failed, np.zeros((2, 3)))
    # Where all is well, to ask for an exception changes nothing.
    gradient, _ = _report(net, inputs(net, batch=6).reshape(2, 3, 2), throw=True)
    assert relative_error(gradient, expected) < 1e-13


def test_a_sample_without_equilibrium_has_no_adjoint_to_fail():
    gradient, report = _report(oscillator(), jnp.zeros((1, 2)))
    np.testing.assert_array_equal(report.residual, [0])
    np.testing.assert_array_equal(report.failed, [0])
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@pytest.mark.parametrize("num_terms", [1, 3])
def test_neumann_reports_what_its_series_leaves_out(num_terms):
    w, y = -3.0, 0.4
    net, x, _ = scalar_neuron(w, y)
    mode, solver = irnn.Neumann(num_terms=num_terms), irnn.PseudoTransient()
    gradient, report = _report(net, x, gradient=mode, solver=solver)
    slope = y * (1 - y)
    ratio = slope * w
    # What is left of the geometric series after k terms is its ratio to the k.
    np.testing.assert_allclose(report.residual, abs(ratio) ** num_terms, rtol=1e-12)
    assert report.failed == 0
    series = sum(ratio**k for k in range(num_terms))
    np.testing.assert_allclose(gradient.layers[0].bias, [slope * series], rtol=1e-12)


def test_a_neumann_series_that_overflows_is_left_out_and_reported():
    net, x, _ = scalar_neuron(-30.0, 0.5)  # a ratio of -7.5
    solver = irnn.PseudoTransient()
    gradient, report = _report(net, x, gradient=irnn.Neumann(num_terms=1000), solver=solver)
    assert report.failed == 1
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


W = np.random.default_rng(0).normal(size=(4, 4))


def _cell(W: Any, y: Any, x: Any) -> Any:
    return jax.nn.sigmoid(W @ y + x)


@functools.cache
def _cell_report(gradient: Any, *, throw: bool = False) -> tuple[Any, irnn.AdjointReport]:
    options = {"gradient": gradient, "throw": throw, "solver": CHEAP}

    def loss(W, probe):
        result = irnn.fixed_point(_cell, W, jnp.ones(4), jnp.zeros(4), probe=probe, **options)
        return jnp.sum(result.activities**2)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(W, irnn.adjoint_probe())


ONE_STEP = lx.BiCGStab(rtol=1e-12, atol=1e-12, max_steps=1)


def test_a_krylov_solve_that_stops_early_is_left_out_and_reported():
    gradient, report = _cell_report(irnn.Exact(linear_solver=ONE_STEP))
    assert report.failed == 1
    assert 1e-3 < report.residual < 1
    np.testing.assert_array_equal(gradient, np.zeros((4, 4)))
    # The same step, taken for good: what comes back is as wrong as the residual says.
    exact, healthy = _cell_report(irnn.Exact())
    assert healthy.failed == 0
    assert healthy.residual < 1e-11
    accepted, again = _cell_report(irnn.Exact(linear_solver=ONE_STEP, tolerance=1.0))
    assert again.failed == 0
    np.testing.assert_allclose(again.residual, report.residual, rtol=1e-6)
    assert 1e-3 < relative_error(accepted, exact) < 1


class NotANumber(Linearisation):
    """Whose solution is not a number."""

    layout = NEURONS_FIRST

    def product(self, transposed: bool) -> Any:
        return jnp.zeros_like

    def solve(self, rhs: Any, transposed: bool) -> Any:
        return jnp.full_like(rhs, jnp.nan)


def test_an_adjoint_that_is_not_a_number_has_not_converged():
    linear, cotangent = NotANumber(), jnp.ones((300, 100))
    adjoint = irnn.Exact().adjoint(linear, cotangent)
    assert not np.any(adjoint.converged)
    assert np.all(np.isinf(relative_residual(linear, adjoint.state, cotangent)))


# --- throw --------------------------------------------------------------------------------------


def test_throw_raises_where_no_equilibrium_is_reached():
    x = jnp.zeros((1, 2))
    with pytest.raises(RuntimeError, match="no equilibrium was reached"):
        jax.block_until_ready(irnn.apply(oscillator(), x, solver=CHEAP, throw=True))

    def restless(params, y, x):
        return 1 - y

    with pytest.raises(RuntimeError, match="no equilibrium was reached"):
        irnn.fixed_point(restless, None, None, jnp.zeros(1), solver=CHEAP, throw=True)


def test_throw_changes_nothing_where_a_cell_is_well():
    expected, _ = _cell_report(irnn.Exact())
    gradient, _ = _cell_report(irnn.Exact(), throw=True)
    assert relative_error(gradient, expected) < 1e-13


def test_throw_raises_where_an_adjoint_fails():
    with pytest.raises(RuntimeError, match="adjoint"):
        jax.block_until_ready(
            _report(
                pitchfork(),
                jnp.zeros((1, 1)),
                activation=jnp.tanh,
                throw=True,
                check_stability=False,
            )
        )
    with pytest.raises(RuntimeError, match="adjoint"):
        jax.block_until_ready(_cell_report(irnn.Exact(linear_solver=ONE_STEP), throw=True))
