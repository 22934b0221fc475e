"""The equilibrium that the flow reaches and stays at, or a flag, by default."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import expit

import irnn_jax as irnn
from tests.problems import CHEAP, spectral_abscissa
from tests.statuses import CONVERGED, LIMIT_CYCLE, MAX_STEPS, SENSITIVE, UNSTABLE, assert_status


def _network(lateral: Any, bias: Any) -> irnn.Network:
    n = len(lateral)
    layer = irnn.Layer(
        feedforward=jnp.eye(n), lateral=jnp.asarray(lateral, float), bias=jnp.asarray(bias, float)
    )
    return irnn.Network(layers=(layer,))


def _flow(function: Any, y0: Any) -> np.ndarray:
    """Where dY/dt = function(Y) - Y ends."""
    found = solve_ivp(
        lambda t, y: function(y) - y, (0, 2000), y0, method="LSODA", rtol=1e-11, atol=1e-14
    )
    return found.y[:, -1]


# --- small differences decide -------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("drive", "start"), [(2e-3, 0.0), (-1e-4, 0.0), (0.0, 2e-3), (1e-6, 0.0)])
def test_a_cell_leaves_a_state_that_is_nearly_at_rest(scale, drive, start):
    def cell(p, y, x):
        return scale * jnp.tanh(p * y / scale + x)

    found = irnn.fixed_point(cell, 1.8, drive, jnp.array([start * scale]))
    right = _flow(lambda y: np.tanh(1.8 * y + drive), [start])
    assert found.converged
    np.testing.assert_allclose(found.activities / scale, right, rtol=1e-8)


def _memory(n: int, cue: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    stored = rng.choice([-1.0, 1.0], size=(3, n))
    return 2.2 * stored.T @ stored / n, cue * (stored[0] + 0.3 * rng.normal(size=n))


@pytest.mark.parametrize("cue", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("n", [6, 20, 40])
def test_a_memory_recalls_what_its_weak_cue_says(n, cue):
    matrix, b = _memory(n, cue)
    found = irnn.equilibrium(_network(matrix, np.zeros(n)), b, activation=jnp.tanh)
    assert found.converged
    right = _flow(lambda y: np.tanh(matrix @ y + b), np.zeros(n))
    np.testing.assert_allclose(found.activities[0], right, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("n", "own", "other"), [(2, 5.0, -10.0), (4, 6.0, -12.0), (30, 6.0, -9.0)])
def test_the_strongest_wins_also_if_it_is_hardly_stronger(n, own, other):
    matrix = np.where(np.eye(n, dtype=bool), own, other)
    rng = np.random.default_rng(11)
    b = 2.2 + 10.0 ** -rng.uniform(1, 5, size=(12, 1)) * rng.normal(size=(12, n))
    found = irnn.equilibrium(_network(matrix, np.zeros(n)), b)
    right = np.array([_flow(lambda y, b=b: expit(matrix @ y + b), np.zeros(n)) for b in b])
    assert np.all(found.converged)
    np.testing.assert_allclose(found.activities[0], right, rtol=0, atol=1e-6)
    assert np.all(found.sensitivity >= 1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 100.0])
def test_the_unit_of_the_state_decides_nothing(scale):
    rng = np.random.default_rng(2)
    matrix = np.where(np.eye(3, dtype=bool), 6.0, -12.0)
    b = 2 + 0.1 * rng.normal(size=(20, 3))

    def cell(p, y, x):
        return scale * jax.nn.sigmoid(y / scale @ p.T + x)

    found = irnn.fixed_point(cell, matrix, b, jnp.zeros((20, 3)), batched=True)
    right = irnn.equilibrium(_network(matrix, np.zeros(3)), b)
    assert np.all(found.converged)
    np.testing.assert_allclose(found.activities / scale, right.activities[0], atol=1e-8)

    def unit(u):
        return scale * jax.nn.sigmoid(u)

    network = irnn.equilibrium(_network(matrix / scale, np.zeros(3)), b, activation=unit)
    assert np.all(network.converged)
    np.testing.assert_allclose(network.activities[0] / scale, right.activities[0], atol=1e-8)


def test_a_first_step_does_not_leap_over_what_decides():
    """Excitation that inhibition follows: found by steps that seemed accurate, and were not."""
    matrix = np.array([[11.0, -12.0, 9.5], [8.0, -7.6, 12.4], [9.7, -11.0, 8.9]])
    b = np.random.default_rng(0).normal(size=(60, 3))
    found = irnn.equilibrium(_network(matrix, np.zeros(3)), b)
    right = np.array([_flow(lambda y, b=b: expit(matrix @ y + b), np.zeros(3)) for b in b])
    rests = np.abs(expit(right @ matrix.T + b) - right).max(axis=1) < 1e-8
    trusted = rests & np.asarray(found.converged)
    assert trusted.sum() >= 0.95 * rests.sum()
    np.testing.assert_allclose(found.activities[0][trusted], right[trusted], atol=1e-6)


# --- what is not the flow's ---------------------------------------------------------------------

TIE = np.where(np.eye(3, dtype=bool), 5.0, -10.0)


@pytest.mark.parametrize("form", ["network", "cell"])
def test_a_tie_is_flagged(form):
    """Two equal drives: rounding decides which of the neurons wins, if one does."""
    b = np.array([[2.2, 2.2, 2.0], [2.2, 2.1, 2.0]])
    if form == "network":
        found = irnn.equilibrium(_network(TIE, np.zeros(3)), b)
    else:
        found = irnn.fixed_point(
            lambda p, y, x: jax.nn.sigmoid(y @ p.T + x), TIE, b, jnp.zeros((2, 3)), batched=True
        )
    assert found.status[0] in (UNSTABLE, SENSITIVE)
    assert found.status[1] == CONVERGED


# Eigenvalues of D A at Y = 1/2: 1.1 +- 2i. The flow from 0 circles it.
CIRCLES = [[4.4, -8.0], [8.0, 4.4]]
LEFT_BY_THE_FLOW = _network(CIRCLES, -np.sum(CIRCLES, axis=1) / 2)
X = jnp.array([[6.0, 6.0], [0.0, 0.0], [-6.0, 6.0]])


@pytest.mark.parametrize("form", ["network", "cell"])
def test_an_equilibrium_inside_a_limit_cycle_is_flagged(form):
    def loss(weight):
        if form == "network":
            found = irnn.equilibrium(LEFT_BY_THE_FLOW, X * weight)
            return found.activities[0].sum(), found
        b = X * weight + LEFT_BY_THE_FLOW.layers[0].bias
        lateral = LEFT_BY_THE_FLOW.layers[0].lateral
        found = irnn.fixed_point(
            lambda p, y, x: jax.nn.sigmoid(y @ p.T + x), lateral, b, jnp.zeros((3, 2)), batched=True
        )
        return found.activities.sum(), found

    gradient, found = jax.grad(loss, has_aux=True)(jnp.ones((3, 1)))
    assert found.status[1] in (UNSTABLE, LIMIT_CYCLE, MAX_STEPS)
    np.testing.assert_array_equal(found.converged, [True, False, True])
    assert gradient[1] == 0
    assert np.all(gradient[jnp.array([0, 2])] != 0)


def test_a_saddle_reached_by_symmetry_is_unstable_unless_it_is_asked_for():
    # Two neurons that inhibit each other stay equal from Y = 0 on; D A has the eigenvalues +-2.5.
    lateral = [[0.0, -10.0], [-10.0, 0.0]]
    net = _network(lateral, -np.sum(lateral, axis=1) / 2)
    for solver in (irnn.Euler(), irnn.NewtonKrylov(), irnn.Auto()):
        solve = functools.partial(irnn.equilibrium, net, X, solver=solver)
        assert_status(solve(), [CONVERGED, UNSTABLE, CONVERGED])
        result = solve(check_stability=False)
        assert_status(result, [CONVERGED] * 3)
        np.testing.assert_allclose(result.activities[0][1], 0.5, rtol=0, atol=1e-11)
    with pytest.raises(RuntimeError, match="no equilibrium was reached"):
        jax.block_until_ready(irnn.equilibrium(net, X, throw=True))


def test_an_unstable_equilibrium_is_left_for_the_one_that_the_flow_reaches():
    # Found among random networks: fast steps leap onto an unstable equilibrium.
    W = np.array([[7.1, 6.4, -9.2], [-2.0, 16.4, 20.0], [13.1, -21.5, -1.2]])
    b = np.array([-0.7, -15.4, 4.1])
    net = _network(W, b)
    fast = irnn.PseudoTransient(error_tolerance=0.03, reject_above=0.15, first_step=1.0)
    leapt = irnn.equilibrium(net, jnp.zeros((2, 3)), solver=fast)
    assert_status(leapt, [UNSTABLE] * 2)
    found = irnn.equilibrium(net, jnp.zeros((2, 3)))
    assert_status(found, [CONVERGED] * 2)
    assert spectral_abscissa(net, [found.activities[0][0]]) < 1
    right = _flow(lambda y: expit(W @ y + b), np.zeros(3))
    np.testing.assert_allclose(found.activities[0], np.tile(right, (2, 1)), atol=1e-7)


# With tanh and no drive Y = 0 is where every solve begins and ends, and D A is A itself.
RNG = np.random.default_rng(3)


def _matrices(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices, and which of them have an eigenvalue of real part one or more."""
    matrices = RNG.normal(size=(16, n, n)) / np.sqrt(n) * RNG.uniform(0.3, 2, size=(16, 1, 1))
    matrices[::4] -= 3 * np.eye(n)  # far out, on the stable side
    matrices[1::4] = np.triu(matrices[1::4]) * 2  # not normal
    abscissae = np.linalg.eigvals(matrices).real.max(axis=1)
    clear = np.abs(abscissae - 1) > 0.02
    return matrices[clear], abscissae[clear] >= 1


CHOSEN = [(3, np.float64), (24, np.float32), (140, np.float64)]
STABILITY = [
    pytest.param(form, n, dtype, marks=() if (n, dtype) in CHOSEN else pytest.mark.slow)
    for form in ("networks", "cells")
    for n in (1, 3, 16, 24, 140)
    for dtype in (np.float32, np.float64)
]


@pytest.mark.parametrize(("form", "n", "dtype"), STABILITY)
def test_stability_is_what_the_eigenvalues_say(form, n, dtype):
    matrices, unstable = _matrices(n)
    given = jnp.asarray(matrices, dtype)
    if form == "networks":

        def solve(matrix: Any) -> irnn.Equilibrium:
            layer = irnn.Layer(
                feedforward=jnp.zeros((n, 1), dtype), lateral=matrix, bias=jnp.zeros(n, dtype)
            )
            net = irnn.Network(layers=(layer,))
            at_rest = jnp.zeros(1, dtype)
            return irnn.equilibrium(net, at_rest, activation=jnp.tanh, solver=CHEAP)
    else:

        def solve(matrix: Any) -> irnn.Equilibrium:
            return irnn.fixed_point(
                lambda p, y, x: jnp.tanh(p @ y), matrix, None, jnp.zeros(n, dtype), solver=CHEAP
            )

    found = jax.jit(jax.vmap(solve))(given)
    assert_status(found, np.where(unstable, UNSTABLE, CONVERGED).tolist())
    assert found.residual.dtype == dtype


@pytest.mark.parametrize("gradient", [irnn.Exact(), irnn.Unrolled()], ids=["exact", "unrolled"])
def test_stability_of_all_layers_in_either_gradient(gradient):
    # A = [[0, 3], [a, 0]] with the eigenvalues +-sqrt(3 a): feedback alone can make a saddle.
    def loss(a: Any, x: Any) -> Any:
        one, zero = jnp.ones((1, 1)), jnp.zeros(1)
        hidden = irnn.Layer(feedforward=one, lateral=None, bias=zero)
        output = irnn.Layer(feedforward=a * one, lateral=None, bias=zero)
        net = irnn.Network(layers=(hidden, output), feedback=(3 * one,))
        result = irnn.equilibrium(
            net,
            x[None],
            activation=jnp.tanh,
            # All steps are taken, also from where it rests: `Unrolled` needs something to unroll.
            solver=irnn.RungeKutta4(num_steps=60),
            gradient=gradient,
        )
        return result.activities[-1].sum(), result

    slopes = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1), has_aux=True)))
    (d_a, d_x), result = slopes(jnp.array([0.1, 0.4]), jnp.zeros(2))
    assert_status(result, [CONVERGED, UNSTABLE])
    # At Y = 0: dy2/dx = a/(1 - 3 a), and a multiplies y1 = 0.
    np.testing.assert_allclose(d_x, [1 / 7, 0.0], rtol=1e-9)
    np.testing.assert_array_equal(d_a, 0)


def test_training_leaves_unstable_samples_out():
    optimizer, target = irnn.adam(0.01), jnp.full((3, 2), 0.3)
    state = irnn.TrainState.create(LEFT_BY_THE_FLOW, optimizer)
    step = irnn.make_train_step(irnn.squared_error, optimizer, guard=None)
    _, metrics = step(state, (X, target))
    np.testing.assert_allclose(metrics.converged, 2 / 3)
    y = np.asarray(irnn.apply(LEFT_BY_THE_FLOW, X))
    np.testing.assert_allclose(metrics.loss, np.mean((y[[0, 2]] - 0.3) ** 2), rtol=1e-12)
