"""Every solver reaches the equilibrium that it promises, or says that it did not."""

import dataclasses
import functools
import os
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import expit

import irnn_jax as irnn
from tests.problems import (
    NETWORKS,
    SOLVERS,
    connection_matrix,
    identity,
    inputs,
    network,
    reference_equilibrium,
    scalar_neuron,
    spectral_abscissa,
)

FLOWS = {
    "flow_kvaerno5": irnn.Flow(solver=diffrax.Kvaerno5()),
    "flow_fixed_heun": irnn.Flow(
        solver=diffrax.Heun(), stepsize_controller=diffrax.ConstantStepSize(), first_step=0.5
    ),
}


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


# --- known answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [*SOLVERS, "flow_fixed_heun", pytest.param("flow_kvaerno5", marks=pytest.mark.slow)]
)
def test_solver_reaches_the_equilibrium(name):
    promise = SOLVERS.get(name)
    solver, error = promise if promise else (FLOWS[name], SOLVERS["flow"].error)
    net = NETWORKS["three_layers"]
    result = irnn.equilibrium(net, inputs(net), solver=solver)
    for actual, expected in zip(
        result.activities, reference_equilibrium(net, inputs(net)), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=error)
    assert np.all(result.converged)
    assert np.all(result.residual <= np.finfo(float).eps ** 0.75)
    assert np.all(result.num_steps > 0)


def test_scalar_equilibria_and_slopes_in_closed_form():
    # Below its fold at W = 4 a neuron has one equilibrium; above, y < 1/2 - is the lower branch.
    cases = [(w, y) for w in (-30.0, -8.0, -1.0, 0.0, 2.0, 3.9) for y in (0.05, 0.3, 0.5, 0.8)]
    cases += [(w, y) for w in (6.0, 12.0) for y in (0.02, 0.07)]
    nets, x, slopes = zip(*[scalar_neuron(*case) for case in cases], strict=True)
    value_and_slope = jax.jit(jax.vmap(jax.value_and_grad(lambda x, net: irnn.apply(net, x)[0])))
    y, dy = value_and_slope(jnp.stack(x), _stack(list(nets)))
    # The tolerance is 1.8e-12; the rate, 0.025 at w = 3.9 and y = 1/2, magnifies it in the slope.
    np.testing.assert_allclose(y, [y for _, y in cases], rtol=0, atol=2e-12)
    np.testing.assert_allclose(dy[:, 0], slopes, rtol=1e-10)


def test_linear_activation_has_the_linear_systems_solution():
    net = network((2, 2, 1), scale=0.5)
    x = inputs(net)
    A = connection_matrix(net)
    first, last = net.layers
    drive = np.concatenate(
        [x @ first.feedforward.T + first.bias, np.tile(last.bias, (len(x), 1))], axis=1
    )
    expected = np.linalg.solve(np.eye(3) - A, drive.T).T

    def loss(net):
        result = irnn.equilibrium(net, x, activation=identity)
        return result.activities[-1].sum(), result

    gradient, result = jax.jit(jax.grad(loss, has_aux=True))(net)
    actual = np.concatenate(result.activities, axis=1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-14)
    # With D = 1 the gradient of g.Y is (1 - A^T)^-1 g.
    u = np.linalg.solve(np.eye(3) - A.T, [0, 0, 1])
    np.testing.assert_allclose(gradient.layers[0].bias, 3 * u[:2], rtol=1e-13)
    np.testing.assert_allclose(
        gradient.feedback[0], np.outer(u[:2], expected[:, 2].sum()), rtol=1e-13
    )


# --- Runge-Kutta --------------------------------------------------------------------------------


def test_runge_kutta_takes_the_papers_thirty_steps():
    net = NETWORKS["one_layer"]
    x = inputs(net)
    Q, W, T = map(np.asarray, net.layers[0])

    def velocity(y):
        return expit(y @ W.T + np.asarray(x) @ Q.T + T) - y

    y = np.zeros((3, 2))
    for _ in range(30):
        k1 = velocity(y)
        k2 = velocity(y + k1 / 2)
        k3 = velocity(y + k2 / 2)
        k4 = velocity(y + k3)
        y = y + (k1 + 2 * k2 + 2 * k3 + k4) / 6
    result = irnn.equilibrium(net, x, solver=irnn.RungeKutta4())
    np.testing.assert_array_equal(result.num_steps, [30, 30, 30])
    np.testing.assert_allclose(result.activities[0], y, rtol=0, atol=1e-15)
    # It stops there whether or not it has arrived, and says what is left.
    np.testing.assert_allclose(result.residual, np.abs(velocity(y)).max(axis=1), atol=1e-15)


def test_runge_kutta_is_of_fourth_order():
    net = NETWORKS["one_layer"]
    x = inputs(net)[:1]
    Q, W, T = map(np.asarray, net.layers[0])
    drive = Q @ np.asarray(x[0]) + T
    exact = solve_ivp(
        lambda _, y: expit(W @ y + drive) - y,
        (0, 2),
        np.zeros(2),
        method="DOP853",
        rtol=1e-13,
        atol=1e-15,
    ).y[:, -1]
    errors = []
    for num_steps in (6, 12):
        solver = irnn.RungeKutta4(num_steps=num_steps, step_size=2 / num_steps)
        result = irnn.equilibrium(net, x, solver=solver)
        assert not result.converged[0]  # at t = 2 the flow is still under way
        errors.append(np.max(np.abs(result.activities[0][0] - exact)))
    # It tends to 4; at steps of 1/3 and 1/6 the next order still shows.
    assert 3.6 < np.log2(errors[0] / errors[1]) < 4.4


# --- stiff weights ------------------------------------------------------------------------------


def _flow_from_zero(net: irnn.Network, x: np.ndarray) -> np.ndarray | None:
    """Where the flow rests, by LSODA and Newton; None where it is still moving at t = 2000."""
    A, bias = connection_matrix(net), np.asarray(net.layers[0].bias)
    drive = np.asarray(net.layers[0].feedforward) @ x + bias

    def velocity(_, y):
        return expit(A @ y + drive) - y

    y = solve_ivp(velocity, (0, 2000), 0 * drive, method="LSODA", rtol=1e-10, atol=1e-12).y[:, -1]
    if np.max(np.abs(velocity(0, y))) > 1e-6:
        return None
    for _ in range(3):
        slope = expit(A @ y + drive) * expit(-(A @ y + drive))
        y = y + np.linalg.solve(np.eye(len(y)) - slope[:, None] * A, velocity(0, y))
    return y


STIFF = [network((2, 7), scale=10.0, seed=seed) for seed in range(12)]


@functools.cache
def _stiff_reference() -> list[np.ndarray | None]:
    return [_flow_from_zero(net, np.array([0.3, -0.5])) for net in STIFF]


def _stiff_result(solver: Any) -> irnn.Equilibrium:
    def solve(net: irnn.Network) -> irnn.Equilibrium:
        return irnn.equilibrium(net, jnp.array([0.3, -0.5]), solver=solver)

    return jax.jit(jax.vmap(solve))(_stack(STIFF))


def test_stiff_weights_are_solved():
    result = _stiff_result(irnn.PseudoTransient())
    rests = 0
    for net, state, expected, converged in zip(
        STIFF, result.activities[0], _stiff_reference(), result.converged, strict=True
    ):
        if expected is None:
            assert not converged or spectral_abscissa(net, [state]) > 1
            continue
        rests += 1
        assert converged
        np.testing.assert_allclose(state, expected, rtol=0, atol=1e-11)
    assert rests >= 8


@pytest.mark.parametrize("solver", [irnn.Picard(), irnn.RungeKutta4()])
def test_what_fixed_steps_cannot_solve_is_flagged(solver):
    result = _stiff_result(solver)
    for net, state, residual, converged in zip(
        STIFF, result.activities[0], result.residual, result.converged, strict=True
    ):
        drive = net.layers[0].feedforward @ np.array([0.3, -0.5]) + net.layers[0].bias
        missed = np.max(np.abs(expit(connection_matrix(net) @ state + drive) - state))
        np.testing.assert_allclose(residual, missed, rtol=1e-9, atol=1e-13)
        assert converged == (missed <= np.finfo(float).eps ** 0.75)
    # An explicit step of 1 is unstable at most of these equilibria.
    rests = np.array([expected is not None for expected in _stiff_reference()])
    assert np.mean(np.asarray(result.converged)[rests]) < 0.8


# --- the rest of the contract -------------------------------------------------------------------


def test_a_sample_is_the_same_alone_in_a_batch_and_again():
    net = network((2, 3), scale=10.0, seed=1)
    x = inputs(net, batch=5)
    together = irnn.equilibrium(net, x)
    again = irnn.equilibrium(net, x)
    permuted = irnn.equilibrium(net, x[::-1])
    # What does not fill a vector XLA computes by other instructions, to another last digit;
    # `make test` has it use none.
    vectors = "xla_backend_optimization_level=0" not in os.environ.get("XLA_FLAGS", "")
    for a, b, c in zip(*map(jax.tree.leaves, (together, again, permuted)), strict=True):
        np.testing.assert_array_equal(a, b)
        if vectors and a is together.activities[0]:
            np.testing.assert_array_max_ulp(a, c[::-1], maxulp=1)
        else:
            np.testing.assert_array_equal(a, c[::-1])
    for i in (0, 4):
        alone = irnn.equilibrium(net, x[i])
        # Another program, so another order of rounding.
        np.testing.assert_allclose(alone.activities[0], together.activities[0][i], atol=1e-14)
        assert int(alone.num_steps) == int(together.num_steps[i])
        assert bool(alone.converged) == bool(together.converged[i])


BAD_FIELDS = [
    (irnn.PseudoTransient, {"first_step": 0.0}, "first_step must be positive, got 0.0"),
    (irnn.PseudoTransient, {"max_steps": -1}, "max_steps must be positive, got -1"),
    (irnn.PseudoTransient, {"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
    (irnn.PseudoTransient, {"newton_within": 0.0}, "newton_within must be positive, got 0.0"),
    (irnn.PseudoTransient, {"reject_above": 0.01}, "reject_above must be at least error_tolerance"),
    (irnn.PseudoTransient, {"error_tolerance": float("nan")}, "error_tolerance must be positive"),
    (irnn.Euler, {"step_size": -0.1}, "step_size must be positive, got -0.1"),
    (irnn.Euler, {"max_steps": 0}, "max_steps must be positive, got 0"),
    (irnn.Picard, {"max_steps": 0}, "max_steps must be positive, got 0"),
    (irnn.RungeKutta4, {"num_steps": 0}, "num_steps must be positive, got 0"),
    (irnn.RungeKutta4, {"step_size": 0.0}, "step_size must be positive, got 0.0"),
    (irnn.Flow, {"max_time": -1.0}, "max_time must be positive, got -1.0"),
    (irnn.Flow, {"tolerance": -1e-9}, "tolerance must be positive, got -1e-09"),
    (irnn.Exact, {"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
    (irnn.Neumann, {"num_terms": 0}, "num_terms must be at least 1, got 0"),
    (irnn.Unrolled, {"checkpoints": 0}, "checkpoints must be at least 1, got 0"),
]


@pytest.mark.parametrize(("strategy", "fields", "words"), BAD_FIELDS)
def test_strategies_are_checked_when_built(strategy, fields, words):
    with pytest.raises(ValueError, match=words):
        strategy(**fields)


STRATEGIES = [promise.solver for promise in SOLVERS.values()]
STRATEGIES += [irnn.Exact(tolerance=1e-6), irnn.SemiGradient(), irnn.Neumann(num_terms=2)]
STRATEGIES += [irnn.Unrolled(checkpoints=3)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_are_frozen_keyword_only_values(strategy):
    copy = dataclasses.replace(strategy)
    assert copy is not strategy
    assert copy == strategy
    assert hash(copy) == hash(strategy)
    assert len({repr(s) for s in STRATEGIES}) == len(STRATEGIES)
    with pytest.raises(TypeError, match="positional argument"):
        type(strategy)(1)
    for field in dataclasses.fields(strategy):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(strategy, field.name, 1)
