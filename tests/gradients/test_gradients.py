"""Every gradient against differences of a network written in numpy, for both entries."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from scipy.special import expit

import irnn_jax as irnn
from tests.problems import (
    DIFFERENCES,
    GRADIENTS,
    NETWORKS,
    SOLVERS,
    UNROLLED,
    central_differences,
    inputs,
    one_pass,
    reference_equilibrium,
    relative_error,
    squared_error,
    targets,
)

# --- networks -----------------------------------------------------------------------------------


@functools.cache
def _network_differences(name: str, *, semi: bool) -> tuple[irnn.Network, np.ndarray]:
    """The loss's gradient in (net, x), by differences; semi: recurrent activities are frozen."""
    net = NETWORKS[name]
    x, target = inputs(net), targets(net)
    frozen = reference_equilibrium(net, x)

    def loss(arguments):
        net, x = arguments
        activities = one_pass(net, x, frozen) if semi else reference_equilibrium(net, x)
        return squared_error(activities[-1], target)

    return central_differences(loss, (net, x))


def _is_fast(network: str, solver: str, gradient: str) -> bool:
    """The exact gradient with each solver and each depth; the others by the default solver."""
    if gradient == "exact":
        return network == "two_layers" or solver == "pseudo_transient"
    depths = {"semi": NETWORKS, "neumann": ("three_layers",), "unrolled": ("two_layers",)}
    return solver == "pseudo_transient" and network in depths[gradient]


COMBINATIONS = [
    pytest.param(*names, marks=() if _is_fast(*names) else pytest.mark.slow)
    for names in itertools.product(NETWORKS, SOLVERS, GRADIENTS)
]


@pytest.mark.parametrize(("network", "solver", "gradient"), COMBINATIONS)
def test_gradient_is_the_central_difference(network, solver, gradient):
    net = NETWORKS[network]
    x, target = inputs(net), targets(net)
    promise, mode = SOLVERS[solver], GRADIENTS[gradient]

    def loss(net, x):
        result = irnn.equilibrium(net, x, solver=promise.solver, gradient=mode)
        return squared_error(result.activities[-1], target), result

    gradients, result = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(net, x)
    assert np.all(result.converged)
    for actual, expected in zip(result.activities, reference_equilibrium(net, x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=promise.error)
    expected = _network_differences(network, semi=gradient == "semi")
    bound = UNROLLED if gradient == "unrolled" else DIFFERENCES
    assert relative_error(gradients, expected) < bound


def test_semi_gradient_is_another_one():
    # Otherwise the test above could not tell them apart.
    for name in NETWORKS:
        semi, exact = (_network_differences(name, semi=semi) for semi in (True, False))
        assert relative_error(semi, exact) > 1e-2


# --- cells --------------------------------------------------------------------------------------


def excitation_inhibition(params: Any, y: Any, x: Any, f: Callable = jax.nn.sigmoid) -> Any:
    """A dict as the state, and a dict of parameters."""
    drive = params["input"] @ x - params["gain"] * y["inhibitory"]
    return {
        "excitatory": f(params["lateral"] @ y["excitatory"] + drive),
        "inhibitory": f(y["excitatory"] @ params["to_inhibitory"]),
    }


def two_populations(params: Any, y: Any, x: Any, f: Callable = jax.nn.sigmoid) -> Any:
    """A tuple as the state, of a matrix and a vector."""
    sheet, line = y
    return f(params["lateral"] @ sheet + x[:, None] * line), f(sheet.sum(axis=0) * params["gain"])


def _dict_cell() -> tuple:
    rng = np.random.default_rng(1)
    params = {
        "lateral": rng.normal(size=(3, 3)),
        "input": rng.normal(size=(3, 2)),
        "to_inhibitory": rng.normal(size=(3, 1)),
        "gain": np.array(1.5),
    }
    y0 = {"excitatory": np.zeros(3), "inhibitory": np.zeros(1)}
    return excitation_inhibition, params, rng.normal(size=2), y0


def _tuple_cell() -> tuple:
    rng = np.random.default_rng(2)
    params = {"lateral": rng.normal(size=(2, 2)), "gain": rng.normal(size=3)}
    return two_populations, params, rng.normal(size=2), (np.zeros((2, 3)), np.zeros(3))


CELLS = {"dict": _dict_cell(), "tuple": _tuple_cell()}


def _quadratic(state: Any) -> Any:
    """A loss that weights every entry of the state differently."""
    leaves = jax.tree.leaves(state)
    return sum(((leaf - 0.3) ** 2 * (i + 1)).sum() for i, leaf in enumerate(leaves))


def _rest(cell: Callable, params: Any, x: Any, y0: Any) -> Any:
    y = y0
    for _ in range(300):
        y = cell(params, y, x, expit)
    assert relative_error(cell(params, y, x, expit), y) < 1e-15
    return y


@functools.cache
def _cell_differences(name: str, *, semi: bool) -> Any:
    cell, params, x, y0 = CELLS[name]
    frozen = _rest(cell, params, x, y0)

    def loss(arguments):
        params, x = arguments
        y = cell(params, frozen, x, expit) if semi else _rest(cell, params, x, y0)
        return _quadratic(y)

    return central_differences(loss, (params, x))


FAST_CELL_GRADIENTS = [("tuple", "exact"), *(("dict", gradient) for gradient in GRADIENTS)]
CELL_GRADIENTS = [
    pytest.param(*names, marks=() if names in FAST_CELL_GRADIENTS else pytest.mark.slow)
    for names in itertools.product(CELLS, GRADIENTS)
]


@pytest.mark.parametrize(("name", "gradient"), CELL_GRADIENTS)
def test_cell_gradient_is_the_central_difference(name, gradient):
    cell, params, x, y0 = CELLS[name]
    mode = GRADIENTS[gradient]

    def loss(params, x):
        result = irnn.fixed_point(cell, params, x, y0, gradient=mode)
        return _quadratic(result.activities), result

    gradients, result = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    assert bool(result.converged)
    assert (
        relative_error(result.activities, _rest(cell, params, x, y0)) < 4e-12
    )  # Newton's steps are inexact here
    bound = UNROLLED if gradient == "unrolled" else DIFFERENCES
    assert relative_error(gradients, _cell_differences(name, semi=gradient == "semi")) < bound


CELL_SOLVERS = [
    "picard",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("flow", "euler", "runge_kutta")),
]


@pytest.mark.parametrize("solver", CELL_SOLVERS)
def test_cell_gradient_with_every_solver(solver):
    cell, params, x, y0 = CELLS["dict"]

    def loss(params, x):
        result = irnn.fixed_point(cell, params, x, y0, solver=SOLVERS[solver].solver)
        return _quadratic(result.activities), result.converged

    gradients, converged = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    assert bool(converged)
    assert relative_error(gradients, _cell_differences("dict", semi=False)) < DIFFERENCES


def test_closed_over_values_get_gradients():
    cell, params, x, y0 = CELLS["dict"]

    def loss(params, x):
        def closed(nothing, y, also_nothing):
            return cell(params, y, x)

        return _quadratic(irnn.fixed_point(closed, None, None, y0).activities)

    gradients = jax.grad(loss, argnums=(0, 1))(params, x)
    assert relative_error(gradients, _cell_differences("dict", semi=False)) < DIFFERENCES


def test_no_gradient_reaches_the_starting_point():
    cell, params, x, y0 = CELLS["tuple"]

    @jax.jit
    @jax.grad
    def gradient(y0):
        return _quadratic(irnn.fixed_point(cell, params, x, y0).activities)

    for leaf in jax.tree.leaves(gradient(y0)):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_diagnostics_carry_no_gradient():
    net = NETWORKS["two_layers"]
    cell, params, x, y0 = CELLS["dict"]

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(net, params):
        network = irnn.equilibrium(net, inputs(net), solver=irnn.Picard(), gradient=irnn.Unrolled())
        return network.residual.sum() + irnn.fixed_point(cell, params, x, y0).residual

    for leaf in jax.tree.leaves(gradient(net, params)):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
