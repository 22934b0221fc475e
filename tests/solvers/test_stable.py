"""Would the flow stay at an equilibrium? Asked, a sample says so, after a second attempt."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import expit

import irnn_jax as irnn
from irnn_jax.linalg import spectrum
from tests.problems import (
    CHEAP,
    some_sigmoid,
    spectral_abscissa,
)
from tests.statuses import CONVERGED, UNSTABLE, assert_status

# --- stability on request -----------------------------------------------------------------------


def _network(lateral: Any, bias: Any) -> irnn.Network:
    n = len(lateral)
    layer = irnn.Layer(
        feedforward=jnp.eye(n), lateral=jnp.asarray(lateral, float), bias=jnp.asarray(bias, float)
    )
    return irnn.Network(layers=(layer,))


def _centred(lateral: Any) -> irnn.Network:
    """At X = 0 it has the equilibrium Y = 1/2, where D = 1/4."""
    return _network(lateral, -np.sum(lateral, axis=1) / 2)


# Eigenvalues of D A at Y = 1/2: 1.1 +- 2i. The flow circles at a distance that the default
# solver's errors of a percent leap over: it lands on the only equilibrium.
LEFT_BY_THE_FLOW = _centred([[4.4, -8.0], [8.0, 4.4]])
X = jnp.array([[6.0, 6.0], [0.0, 0.0], [-6.0, 6.0]])


@functools.partial(jax.jit, static_argnames=("check_stability",))
def _solve(net: Any, x: Any, weight: Any, *, check_stability: bool) -> Any:
    def loss(net, x):
        result = irnn.equilibrium(net, x, check_stability=check_stability)
        return weight @ result.activities[-1].sum(axis=-1), result

    gradients, result = jax.grad(loss, argnums=(0, 1), has_aux=True)(net, x)
    return result, *gradients


def test_an_equilibrium_that_the_flow_leaves_is_flagged_on_request():
    ones = jnp.ones(3)
    unasked, d_net, d_x = _solve(LEFT_BY_THE_FLOW, X, ones, check_stability=False)
    assert_status(unasked, [CONVERGED] * 3)
    np.testing.assert_allclose(unasked.activities[0][1], 0.5, rtol=0, atol=1e-12)
    assert np.any(d_x[1] != 0)
    asked, left_out, d_x = _solve(LEFT_BY_THE_FLOW, X, ones, check_stability=True)
    assert_status(asked, [CONVERGED, UNSTABLE, CONVERGED])
    # The second, cautious attempt runs into the limit cycle: what stays is what was found first.
    assert asked.num_steps[1] > unasked.num_steps[1]
    np.testing.assert_array_equal(asked.num_steps[::2], unasked.num_steps[::2])
    for name in ("activities", "residual"):
        for a, b in zip(
            jax.tree.leaves(getattr(asked, name)),
            jax.tree.leaves(getattr(unasked, name)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
    assert np.all(d_x[1] == 0)
    assert np.any(d_x[0] != 0)
    _, expected, _ = _solve(LEFT_BY_THE_FLOW, X, ones.at[1].set(0), check_stability=True)
    for a, b in zip(*map(jax.tree.leaves, (left_out, expected)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(left_out.layers[0].bias != d_net.layers[0].bias)


def test_a_saddle_reached_by_symmetry_is_unstable():
    # Two neurons that inhibit each other stay equal from Y = 0 on; D A has the eigenvalues +-2.5.
    net = _centred([[0.0, -10.0], [-10.0, 0.0]])
    solve = functools.partial(irnn.equilibrium, net, X, solver=irnn.Euler())
    assert_status(solve(), [CONVERGED] * 3)
    result = solve(check_stability=True)
    assert_status(result, [CONVERGED, UNSTABLE, CONVERGED])
    np.testing.assert_allclose(result.activities[0][1], 0.5, rtol=0, atol=1e-11)
    with pytest.raises(RuntimeError, match="no equilibrium was reached"):
        jax.block_until_ready(solve(check_stability=True, throw=True))


# With tanh and no drive Y = 0 is where every solve begins and ends, and D A is A itself.
RNG = np.random.default_rng(3)
MATRICES = RNG.normal(size=(24, 3, 3)) * RNG.uniform(0.1, 1.5, size=(24, 1, 1))
ABSCISSAE = np.linalg.eigvals(MATRICES).real.max(axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stability_is_the_eigenvalues_in_a_vmap_over_nets(dtype):
    at_rest = jnp.zeros(3, dtype)

    def solve(net: irnn.Network) -> irnn.Equilibrium:
        return irnn.equilibrium(
            net, at_rest, activation=jnp.tanh, solver=CHEAP, check_stability=True
        )

    nets = [_network(matrix, np.zeros(3)) for matrix in MATRICES]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves).astype(dtype), *nets)
    result = jax.jit(jax.vmap(solve))(stacked)
    # Drawn so that no eigenvalue is near the edge, and both kinds occur.
    assert np.min(np.abs(ABSCISSAE - 1)) > 1e-3
    unstable = ABSCISSAE > 1
    assert 5 < np.sum(unstable) < 19
    assert_status(result, np.where(unstable, UNSTABLE, CONVERGED).tolist())
    assert result.residual.dtype == dtype


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
            check_stability=True,
        )
        return result.activities[-1].sum(), result

    slopes = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1), has_aux=True)))
    (d_a, d_x), result = slopes(jnp.array([0.1, 0.4]), jnp.zeros(2))
    assert_status(result, [CONVERGED, UNSTABLE])
    # At Y = 0: dy2/dx = a/(1 - 3 a), and a multiplies y1 = 0.
    np.testing.assert_allclose(d_x, [1 / 7, 0.0], rtol=1e-9)
    np.testing.assert_array_equal(d_a, 0)


def test_an_unstable_equilibrium_is_left_for_the_one_that_the_flow_reaches():
    # Found among random networks: the default solver leaps onto an unstable equilibrium.
    W = np.array([[7.1, 6.4, -9.2], [-2.0, 16.4, 20.0], [13.1, -21.5, -1.2]])
    b = np.array([-0.7, -15.4, 4.1])
    layer = irnn.Layer(feedforward=jnp.zeros((3, 1)), lateral=jnp.asarray(W), bias=jnp.asarray(b))
    net = irnn.Network(layers=(layer,))
    solve = functools.partial(irnn.equilibrium, net, jnp.zeros((2, 1)))
    leapt, kept = solve(), solve(check_stability=True)
    assert_status(leapt, [CONVERGED] * 2)
    assert spectral_abscissa(net, [leapt.activities[0][0]]) > 1
    assert_status(kept, [CONVERGED] * 2)
    assert spectral_abscissa(net, [kept.activities[0][0]]) < 1
    flow = solve_ivp(lambda t, y: expit(W @ y + b) - y, (0, 200), np.zeros(3), "LSODA", rtol=1e-10)
    np.testing.assert_allclose(kept.activities[0], np.tile(flow.y[:, -1], (2, 1)), atol=1e-7)
    assert np.all(kept.num_steps > leapt.num_steps)


def test_training_leaves_unstable_samples_out():
    optimizer, target = irnn.adam(0.01), jnp.full((3, 2), 0.3)
    state = irnn.TrainState.create(LEFT_BY_THE_FLOW, optimizer)
    step = irnn.make_train_step(irnn.squared_error, optimizer, check_stability=True, guard=None)
    _, metrics = step(state, (X, target))
    np.testing.assert_allclose(metrics.converged, 2 / 3)
    y = np.asarray(irnn.apply(LEFT_BY_THE_FLOW, X))
    np.testing.assert_allclose(metrics.loss, np.mean((y[[0, 2]] - 0.3) ** 2), rtol=1e-12)


# --- which equilibria the flow would leave ------------------------------------------------------


def test_unstable_matrices_are_those_with_an_eigenvalue_beyond_one():
    matrices = np.concatenate(
        [
            MATRICES,
            MATRICES / np.abs(MATRICES).sum(axis=2).max(axis=1)[:, None, None] * 0.99,
            MATRICES / np.abs(MATRICES).sum(axis=1).max(axis=1)[:, None, None] * 0.99,
            -20 * np.eye(3)[None],  # far out, on the stable side
            np.eye(3)[None],  # neither attracting nor repelling
        ]
    )
    expected = np.linalg.eigvals(matrices).real.max(axis=1) >= 1
    assert np.sum(expected) == np.sum(ABSCISSAE > 1) + 1
    asked = np.ones(len(matrices), bool)

    def find() -> Any:
        return spectrum.find_unstable(jnp.asarray(matrices), jnp.asarray(asked))

    np.testing.assert_array_equal(find(), expected)
    asked[::2] = False
    matrices[0] = np.nan  # nobody asked, and nobody is disturbed
    np.testing.assert_array_equal(find(), expected & asked)


def test_eigenvalues_are_left_alone_where_a_norm_decides(monkeypatch):
    seen = []
    abscissa = spectrum.spectral_abscissa

    def watched(matrix: Any) -> Any:
        jax.debug.callback(lambda: seen.append(1))
        return abscissa(matrix)

    monkeypatch.setattr(spectrum, "spectral_abscissa", watched)
    # Row sums of 0.9, column sums of 0.9, and neither, all with the eigenvalue 0.9.
    rows = jnp.array([[[0.5, 0.4], [0.0, 0.9]]])
    columns = jnp.swapaxes(rows, 1, 2)
    neither = jnp.array([[[0.9, 3.0], [0.0, 0.9]]])
    asked = jnp.array([True])
    for matrix, wanted in ((rows, asked), (columns, asked), (neither, ~asked)):
        assert not spectrum.find_unstable(matrix, wanted)
    jax.effects_barrier()
    assert not seen
    assert not spectrum.find_unstable(neither, asked)
    jax.effects_barrier()
    assert seen


@dataclasses.dataclass(frozen=True)
class GivesUpAtFirst:
    """One step of the default solver for the samples; all it needs for the second attempt."""

    tolerance: float | None = None

    def solve(self, problem, y0, loop):
        return irnn.PseudoTransient(max_steps=1).solve(problem, y0, loop)

    def more_cautious(self):
        return irnn.PseudoTransient()


def test_what_did_not_converge_is_attempted_again():
    net, x = _centred([[2.0, -3.0], [3.0, 1.0]]), X
    solve = functools.partial(irnn.equilibrium, net, x, activation=some_sigmoid)
    without = solve(solver=GivesUpAtFirst())
    assert not without.converged[0]
    result = solve(solver=GivesUpAtFirst(), check_stability=True)
    assert result.converged.all()
    assert result.num_steps[0] > without.num_steps[0]
    expected = solve()
    np.testing.assert_allclose(result.activities[0], expected.activities[0], atol=1e-12)
