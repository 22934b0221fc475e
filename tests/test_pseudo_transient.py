"""The parts of the default solver, a diffrax solver and a diffrax controller, by themselves."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from irnn_jax.problem import DenseProblem
from irnn_jax.solvers.pseudo_transient import (
    FollowThenNewton,
    Iterate,
    Rodas3,
    StepReport,
    flow,
    iterate,
)
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


def _integrate(t1: float, **options: Any) -> tuple[Iterate, Any]:
    """The last iterate, and diffrax's statistics."""
    problem = DenseProblem(matrix=jnp.asarray(A), drive=jnp.asarray(DRIVE), activation=sigmoid)
    start = jnp.zeros(3)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(flow),
        Rodas3(),
        t0=0.0,
        t1=t1,
        y0=iterate(problem, start, remaining=jnp.asarray(jnp.inf), time=jnp.asarray(0.0)),
        args=problem,
        **options,
    )
    return jax.tree.map(lambda leaf: leaf[-1], solution.ys), solution.stats


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
    last, _ = _integrate(2.0, dt0=0.25, stepsize_controller=diffrax.ConstantStepSize())
    y = np.zeros(3)
    for _ in range(8):
        y = _step(y, 0.25)
    np.testing.assert_allclose(last.state, y, rtol=0, atol=1e-14)
    f = expit(A @ y + DRIVE)
    np.testing.assert_allclose(last.velocity, f - y, rtol=0, atol=1e-14)


def test_the_flow_is_followed_to_third_order():
    constant = {"stepsize_controller": diffrax.ConstantStepSize(), "max_steps": None}
    exact, _ = _integrate(2.0, dt0=1 / 512, **constant)
    errors = [
        np.max(np.abs(_integrate(2.0, dt0=h, **constant)[0].state - exact.state))
        for h in (1 / 8, 1 / 16, 1 / 32)
    ]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 3, atol=0.2)


def test_a_long_step_is_three_newton_steps_with_one_jacobian():
    problem = DenseProblem(matrix=jnp.asarray(A), drive=jnp.asarray(DRIVE), activation=sigmoid)
    rest = np.concatenate(reference_equilibrium(NET, X))
    errors = []
    for distance in (0.08, 0.04, 0.02):
        state = jnp.asarray(rest) + distance * jnp.array([1.0, -1.0, 1.0])
        y0 = iterate(problem, state, remaining=jnp.asarray(jnp.inf), time=jnp.asarray(0.0))
        times = jnp.asarray(0.0), jnp.asarray(1e15)
        y1, *_ = Rodas3().step(diffrax.ODETerm(flow), *times, y0, problem, None, False)
        errors.append(np.max(np.abs(y1.state - rest)))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 4, atol=0.4)


def test_the_controller_runs_the_solver_to_rest():
    controller = FollowThenNewton(
        error_tolerance=0.05, reject_above=0.2, newton_within=0.1, first_step=1.0
    )
    rest = diffrax.Event(lambda t, y, args, **kwargs: jnp.max(jnp.abs(y.velocity)) < 1e-13)
    last, stats = _integrate(float("inf"), dt0=None, stepsize_controller=controller, event=rest)
    expected = np.concatenate(reference_equilibrium(NET, X))
    np.testing.assert_allclose(last.state, expected, rtol=0, atol=1e-12)
    assert int(stats["num_steps"]) < 9


LONGEST = 1 / np.finfo(float).eps
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
    (3.0, 1e-12, 1e-12, 0.0, 1.0, False, 0.75, 0.75),
    (1e9, 0.01, 0.01, 0.5, 0.0, True, 1e11, 3),
    (1e9, 0.01, 0.01, 1.1, 0.0, False, 3, 3),
    (1e9, 0.3, 0.01, 0.5, 0.0, False, 3, 3),
    (1e9, 0.01, 0.01, 0.5, 1.0, False, 3, 3),
]


@pytest.mark.parametrize(("h", "error", "ahead", "ratio", "pole", "kept", "next_h", "state"), RULE)
def test_step_sizes_follow_the_rule(h, error, ahead, ratio, pole, kept, next_h, state):
    controller = FollowThenNewton(
        error_tolerance=0.05, reject_above=0.2, newton_within=0.1, first_step=1.0
    )
    report = StepReport(*map(jnp.asarray, (error, ahead, ratio, pole)))
    keep, t0, t1, _, followed, _ = controller.adapt_step_size(
        jnp.asarray(0.0), jnp.asarray(h), None, None, None, report, 1, jnp.asarray(3.0)
    )
    assert bool(keep) is kept
    # The flow does not depend on time: every step starts again where the last one began.
    assert float(t0) == 0
    np.testing.assert_allclose(t1, next_h, rtol=1e-14)
    np.testing.assert_allclose(followed, state, rtol=1e-14)


def test_a_step_without_error_has_a_derivative():
    # Where the error is 0 the root of 1/error has no slope; `Unrolled` differentiates the loop.
    controller = FollowThenNewton(
        error_tolerance=0.05, reject_above=0.2, newton_within=0.1, first_step=1.0
    )

    def next_h(error):
        report = StepReport(error, jnp.asarray(0.0), jnp.asarray(0.0), jnp.asarray(0.0))
        return controller.adapt_step_size(
            jnp.asarray(0.0), jnp.asarray(3.0), None, None, None, report, 1, jnp.asarray(3.0)
        )[2]

    assert jax.grad(next_h)(0.0) == 0
