"""The library against the reference numbers: 61 equilibria with all derivatives, 6 without one.

Where only the copy is at hand, 34 and 6.
"""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from tests import oracle
from tests.problems import connection_matrix, relative_error, spectral_abscissa

CONVERGING = pytest.mark.parametrize("name", oracle.names(converges=True))


def _bound(case: oracle.Case, *, derivative: bool) -> float:
    """1e-10, or what float64 can give next to a fold: rounding |A|/rate, twice for derivatives.

    |A| is the largest sum of a row's magnitudes, and 100 a safety factor: the rounding of a whole
    row of products, of the sigmoid, and of Newton's last step.
    """
    if not case.info["near_fold"]:
        return 1e-10
    magnitude = max(1.0, np.max(np.sum(np.abs(connection_matrix(case.net)), axis=1)))
    error = 100 * 1e-16 * magnitude / case.info["rate"]
    return max(1e-10, error / case.info["rate"] if derivative else error)


@functools.partial(jax.jit, static_argnames="gradient")
def _gradients(case: oracle.Padded, *, gradient: Any) -> Any:
    def loss(net, x):
        result = irnn.equilibrium(net, x, gradient=gradient)
        return jnp.sum(case.weight * (result.activities[-1] - case.target) ** 2), result

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(case.net, case.x)


def test_every_case_is_tested():
    # Not the copy alone where all are required, as in `.ci/run`.
    is_copy = os.environ.get("IRNN_REQUIRE_ORACLE") != "1" and oracle.ORACLE == oracle.COPY
    counts = [len(oracle.names(converges=known)) for known in (True, False)]
    assert counts == ([34, 6] if is_copy else [61, 6])


def test_the_copy_is_one():
    copied = oracle.index(oracle.COPY)
    for name, info in copied.items():
        assert oracle.index()[name] == info
        stored = [(folder / info["file"]).read_bytes() for folder in (oracle.ORACLE, oracle.COPY)]
        assert stored[0] == stored[1]
    files = {path.name for path in oracle.COPY.glob("*.npz")}
    assert files == {info["file"] for info in copied.values()}


@CONVERGING
def test_equilibrium_and_exact_gradient(name):
    case = oracle.load(name)
    (loss, result), (d_net, d_x) = _gradients(oracle.padded(name), gradient=irnn.Exact())
    assert np.all(result.converged), result.residual
    bound = _bound(case, derivative=False)
    assert relative_error(oracle.crop(result.activities, case.activities), case.activities) < bound
    assert relative_error(loss, case.arrays["loss"]) < bound
    bound = _bound(case, derivative=True)
    expected = oracle.as_network(case.arrays, "grad_exact_")
    assert relative_error(oracle.crop(d_net, case.net), expected) < bound
    assert relative_error(oracle.crop(d_x, case.x), case.arrays["grad_exact_X"]) < bound


@CONVERGING
def test_semi_gradient(name):
    case = oracle.load(name)
    (_, result), (d_net, _) = _gradients(oracle.padded(name), gradient=irnn.SemiGradient())
    assert np.all(result.converged), result.residual
    expected = oracle.as_network(case.arrays, "grad_semi_")
    # No linear system, so no second factor of 1/rate.
    bound = _bound(case, derivative=False)
    assert relative_error(oracle.crop(d_net, case.net), expected) < bound


@CONVERGING
def test_jacobians_and_stability(name):
    case, padded = oracle.load(name), oracle.padded(name)
    bound = _bound(case, derivative=True)
    # The neurons that were added have the eigenvalue 0.
    lowest = -np.inf if oracle.layout(name)[1:] == oracle.sizes(name)[1:] else 0.0
    rounding_of_DA = max(1.0, np.max(np.abs(connection_matrix(case.net))))
    # One sample a call: both functions then share one compiled equilibrium.
    for row, info in zip(padded.x, case.info["per_input"], strict=False):
        found = irnn.stability(padded.net, row)
        assert bool(found.is_stable)
        assert abs(found.abscissa - max(info["abscissa"], lowest)) < bound * rounding_of_DA
        assert float(found.rate) == 1 - float(found.abscissa)
    if case.info["has_jacobians"]:
        prefix = "J_" if "J_Q" in case.arrays else "J1_"
        expected = oracle.as_network(case.arrays, prefix)
        jacobians = oracle.crop(irnn.jacobians(padded.net, padded.x[0]), expected)
        assert relative_error(jacobians, expected) < bound


@pytest.mark.parametrize("name", oracle.names(converges=False))
def test_no_equilibrium_is_claimed_where_the_flow_has_none(name):
    case = oracle.padded(name)
    assert not irnn.stability(case.net, case.x[0]).is_stable


FIXED_STEPS = {"picard": irnn.Picard(), "runge_kutta": irnn.RungeKutta4()}


def _as_one_layer(case: oracle.Case, row: np.ndarray) -> tuple[irnn.Network, jax.Array]:
    """Any network is one layer with W = A; all are padded to 42 neurons and 100 inputs."""
    layer = irnn.Layer(
        feedforward=oracle.pad(case.net.layers[0].feedforward, (42, 100)),
        lateral=oracle.pad(connection_matrix(case.net), (42, 42)),
        bias=oracle.pad(np.concatenate([layer.bias for layer in case.net.layers]), (42,)),
    )
    return irnn.Network(layers=(layer,)), oracle.pad(row, (100,))


@pytest.mark.parametrize("solver", FIXED_STEPS.values(), ids=FIXED_STEPS)
def test_fixed_steps_are_never_silently_wrong(solver):
    cases = [oracle.load(n) for known in (True, False) for n in oracle.names(converges=known)]
    samples = [(case, i) for case in cases for i in range(len(case.x))]
    nets, x = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[_as_one_layer(case, case.x[i]) for case, i in samples]
    )
    result = jax.jit(jax.vmap(lambda net, x: irnn.equilibrium(net, x, solver=solver)))(nets, x)
    failures = 0
    for (case, i), state, converged in zip(
        samples, result.activities[0], result.converged, strict=True
    ):
        if not converged:
            failures += 1
            continue
        stacked = np.asarray(state)[: sum(case.net.sizes[1:])]
        stable = spectral_abscissa(case.net, [stacked]) < 1
        if case.info["converges"]:
            expected = np.concatenate([activities[i] for activities in case.activities])
            # A residual of eps^(3/4) leaves that much over the rate in the activities.
            bound = 10 * np.finfo(float).eps ** 0.75 / min(case.info["per_input"][i]["rate"], 1)
            stable = stable and np.max(np.abs(stacked - expected)) > bound
        assert not stable, (case.info["name"], i)
    # Far from rare, which is why the flag matters.
    assert 10 < failures < len(samples)


CELLS = ("one_picard_n7_m2_b4", "one_stiff_n16_m10_b1", "two_strong_2x2x1_b4")


def _cell(net: irnn.Network, y: tuple, x: jax.Array) -> tuple:
    """A network written by hand as a cell, one array of activities a layer."""
    below, new = x, []
    for i, layer in enumerate(net.layers):
        total = layer.feedforward @ below + layer.lateral @ y[i] + layer.bias
        if i < len(net.feedback):
            total += net.feedback[i] @ y[i + 1]
        new.append(jax.nn.sigmoid(total))
        below = y[i]
    return tuple(new)


@pytest.mark.parametrize("name", CELLS)
def test_matrix_free_entry(name):
    case = oracle.load(name)
    y0 = tuple(jnp.zeros(size) for size in case.net.sizes[1:])

    def loss(net, x):
        result = jax.vmap(lambda row: irnn.fixed_point(_cell, net, row, y0))(x)
        return jnp.mean((result.activities[-1] - case.arrays["target"]) ** 2), result

    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, result), (d_net, d_x) = value_and_grad(case.net, jnp.asarray(case.x))
    assert np.all(result.converged), result.residual
    assert relative_error(result.activities, case.activities) < 1e-10
    # GMRES stops at a relative residual of eps^(3/4) = 1.8e-12.
    assert relative_error(d_net, oracle.as_network(case.arrays, "grad_exact_")) < 1e-10
    assert relative_error(d_x, case.arrays["grad_exact_X"]) < 1e-10
