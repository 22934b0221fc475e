"""The parts of the default solver by themselves: its step, its rule for step sizes, both run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import irnn_jax as irnn
from irnn_jax.networks.dense_problem import DenseProblem
from irnn_jax.solvers.follow_then_newton import FollowThenNewton
from irnn_jax.solvers.rodas3 import Iterate, StepReport, iterate, rodas3
from irnn_jax.xla.loops import Plain
from tests.problems import (
    NETWORKS,
    connection_matrix,
    inputs,
    reference_equilibrium,
    sigmoid,
)

NET = NETWORKS["two_layers"]
A = connection_matrix(NET)
X = np.asarray(inputs(NET)[0])
FIRST, LAST = (tuple(map(np.asarray, layer)) for layer in NET.layers)
DRIVE = np.concatenate([FIRST[0] @ X + FIRST[2], LAST[2]])


def _problem(matrix: Any, drive: Any) -> DenseProblem:
    return DenseProblem(matrix=matrix, drive=drive, activation=sigmoid, sizes=NET.sizes[1:])


PROBLEM = _problem(jnp.asarray(A), jnp.asarray(DRIVE))


def _start(state: Any) -> Iterate:
    return iterate(PROBLEM, state, remaining=jnp.full(1, jnp.inf), time=jnp.zeros(1))


def _steps(h: float, num_steps: int) -> Iterate:
    """From rest, `num_steps` of size h."""
    step = jax.jit(lambda y: rodas3(PROBLEM, y, jnp.full(1, h))[0])
    y = _start(jnp.zeros(3))
    for _ in range(num_steps):
        y = step(y)
    return y


# RODAS3 as its authors write it: k_i = h F(Y + sum_j alpha_ij k_j) + h J sum_j gamma_ij k_j.
GAMMA = 0.5
ALPHAS = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [3 / 4, -1 / 4, 1 / 2, 0]])
GAMMAS = np.array([[6, 0, 0, 0], [12, 6, 0, 0], [-3, -3, 6, 0], [1, 1, -8, 6]]) / 12
WEIGHTS = np.array([5 / 6, -1 / 6, -1 / 6, 1 / 2])


def _step(y: np.ndarray, h: float) -> np.ndarray:
    """One step of RODAS3 as its authors write it, with products with the Jacobian of F."""
    f = expit(A @ y + DRIVE)
    J = (f * (1 - f))[:, None] * A - np.eye(3)
    k: list[np.ndarray] = []
    for i in range(4):
        at = y + sum(ALPHAS[i, j] * k[j] for j in range(i))
        rhs = h * (expit(A @ at + DRIVE) - at) + h * J @ sum(
            (GAMMAS[i, j] * k[j] for j in range(i)), np.zeros(3)
        )
        k.append(np.linalg.solve(np.eye(3) - h * GAMMA * J, rhs))
    return y + sum(weight * stage for weight, stage in zip(WEIGHTS, k, strict=True))


def test_constant_steps_are_those_of_rodas3():
    last = _steps(0.25, 8)
    y = np.zeros(3)
    for _ in range(8):
        y = _step(y, 0.25)
    # Linear systems are solved in float32.
    np.testing.assert_allclose(last.state, y, rtol=0, atol=2e-8)
    f = expit(A @ last.state + DRIVE)
    np.testing.assert_allclose(last.velocity, f - last.state, rtol=0, atol=1e-15)
    assert last.time == 2


def test_the_flow_is_followed_to_third_order():
    exact = _steps(1 / 512, 1024)
    errors = [
        np.max(np.abs(_steps(h, round(2 / h)).state - exact.state)) for h in (1 / 8, 1 / 16, 1 / 32)
    ]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 3, atol=0.2)


def test_a_long_step_is_three_newton_steps_with_one_jacobian():
    rest = np.concatenate(reference_equilibrium(NET, X))
    errors = []
    for distance in (0.08, 0.04, 0.02):
        state = jnp.asarray(rest) + distance * jnp.array([1.0, -1.0, 1.0])
        y1, _ = rodas3(PROBLEM, _start(state), jnp.full(1, 1e15))
        errors.append(np.max(np.abs(y1.state - rest)))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 4, atol=0.4)


def test_what_float32_leaves_of_a_correction_the_next_one_finds():
    rest = np.concatenate(reference_equilibrium(NET, X))
    start = _start(jnp.asarray(rest) + 1e-4 * jnp.array([1.0, -1.0, 1.0]))
    system = PROBLEM.damped(start.state, start.slope, jnp.zeros(1))
    first = system.solve(start.velocity)
    assert first.dtype == jnp.float32
    y1, _ = rodas3(PROBLEM, start, jnp.full(1, LONGEST))
    np.testing.assert_allclose(y1.state, rest, rtol=0, atol=1e-15)


def test_a_batch_is_solved_as_its_samples_are():
    """Every sample has its own step size, its own rejections and its own number of steps."""
    drives = jnp.stack([jnp.asarray(DRIVE), jnp.asarray(DRIVE) - 30, jnp.full(3, jnp.inf)], axis=1)
    solver, loop = irnn.PseudoTransient(), Plain()
    batch = _problem(jnp.asarray(10 * A)[:, :, None], drives)
    together = solver.solve(batch, jnp.zeros((3, 3)), loop)
    for i, drive in enumerate(drives.T):
        alone = solver.solve(_problem(jnp.asarray(10 * A), drive), jnp.zeros(3), loop)
        assert alone.num_steps == together.num_steps[:, i]
        np.testing.assert_array_equal(alone.state, together.state[:, i])
    assert len(set(map(int, together.num_steps[0]))) > 1


LONGEST = 1 / np.finfo(np.float32).eps
# (h, error, ahead, ratio, across a pole) -> (kept, next h, h by which the flow is followed), from
# h = 3 by which the flow was followed: a larger one than 6 is a Newton step.
RULE = [
    (3.0, 0.05, 1.0, 0.5, 0.0, True, 2.4, 2.4),
    (3.0, 0.05 / 8, 1.0, 0.5, 0.0, True, 4.8, 4.8),
    (3.0, 0.05 / 8, 1.0, 2.0, 0.0, True, 4.8, 4.8),
    (3.0, 0.05 / 8, 0.01, 0.5, 0.0, True, 480, 4.8),
    (3.0, 0.0, 1.0, 0.5, 0.0, True, 3e6, 3e6),
    (3.0, 0.0, 0.0, 0.0, 0.0, True, LONGEST, 3e6),
    (3.0, 0.2, 1.0, 0.5, 0.0, True, 2.4 * 0.25 ** (1 / 3), 2.4 * 0.25 ** (1 / 3)),
    (3.0, 0.25, 0.001, 0.5, 0.0, False, 2.4 * 0.2 ** (1 / 3), 2.4 * 0.2 ** (1 / 3)),
    (3.0, 1e9, 1.0, 0.5, 0.0, False, 0.3, 0.3),
    (3.0, np.inf, np.inf, np.inf, 0.0, False, 0.3, 0.3),
    (3.0, np.nan, np.nan, np.nan, 0.0, False, 0.3, 0.3),
    (3.0, 1e-12, 1e-12, 0.0, 1.0, False, 0.75, 0.75),
    (1e4, 0.01, 0.01, 0.5, 0.0, True, 1e6, 3),
    (1e4, 0.01, 0.01, 1.1, 0.0, False, 3, 3),
    (1e4, 0.3, 0.01, 0.5, 0.0, False, 3, 3),
    (1e4, 0.01, 0.01, 0.5, 1.0, False, 3, 3),
]


@pytest.mark.parametrize(("h", "error", "ahead", "ratio", "pole", "kept", "next_h", "state"), RULE)
def test_step_sizes_follow_the_rule(h, error, ahead, ratio, pole, kept, next_h, state):
    rule = FollowThenNewton(error_tolerance=0.05, reject_above=0.2, newton_within=0.1)
    report = StepReport(*map(jnp.asarray, (error, ahead, ratio, pole > 0)))
    keep, h, followed = rule.next_step_size(
        report, jnp.asarray(1.0), jnp.asarray(h), jnp.asarray(3.0)
    )
    assert bool(keep) is kept
    np.testing.assert_allclose(h, next_h, rtol=1e-14)
    np.testing.assert_allclose(followed, state, rtol=1e-14)


def test_a_step_without_error_has_a_derivative():
    # Where the error is 0 the root of 1/error has no slope; `Unrolled` differentiates the loop.
    rule = FollowThenNewton(error_tolerance=0.05, reject_above=0.2, newton_within=0.1)

    def next_h(error):
        zero = jnp.asarray(0.0)
        report = StepReport(error, zero, zero, jnp.asarray(False))
        return rule.next_step_size(report, jnp.asarray(1.0), jnp.asarray(3.0), jnp.asarray(3.0))[1]

    assert jax.grad(next_h)(0.0) == 0
