"""The parts of the default solver, a diffrax solver and a diffrax controller, by themselves."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

import irnn_jax as irnn
from irnn_jax.problem import DenseProblem
from irnn_jax.solvers.pseudo_transient import (
    GrowWherePredictable,
    Iterate,
    LinearlyImplicitEuler,
    StepReport,
    flow,
)
from tests.problems import (
    NETWORKS,
    connection_matrix,
    identity,
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
        LinearlyImplicitEuler(),
        t0=0.0,
        t1=t1,
        y0=Iterate(
            state=start, velocity=problem.map(start) - start, step_amplified=jnp.asarray(jnp.inf)
        ),
        args=problem,
        **options,
    )
    return jax.tree.map(lambda leaf: leaf[-1], solution.ys), solution.stats


def _step(y: np.ndarray, h: float) -> np.ndarray:
    """Y + ((1/h + 1) 1 - D A)^-1 (f(A Y + b) - Y)."""
    f = expit(A @ y + DRIVE)
    jacobian = (f * (1 - f))[:, None] * A
    return y + np.linalg.solve((1 / h + 1) * np.eye(3) - jacobian, f - y)


def test_constant_steps_are_linearly_implicit_euler_steps():
    last, _ = _integrate(2.0, dt0=0.25, stepsize_controller=diffrax.ConstantStepSize())
    y = np.zeros(3)
    for _ in range(8):
        y = _step(y, 0.25)
    np.testing.assert_allclose(last.state, y, rtol=0, atol=1e-14)
    f = expit(A @ y + DRIVE)
    np.testing.assert_allclose(last.velocity, f - y, rtol=0, atol=1e-14)


def test_the_controller_runs_the_solver_to_rest():
    controller = GrowWherePredictable(error_tolerance=0.05, reject_above=0.2, growth=10.0)
    rest = diffrax.Event(lambda t, y, args, **kwargs: jnp.max(jnp.abs(y.velocity)) < 1e-13)
    last, stats = _integrate(float("inf"), dt0=0.5, stepsize_controller=controller, event=rest)
    expected = np.concatenate(reference_equilibrium(NET, X))
    np.testing.assert_allclose(last.state, expected, rtol=0, atol=1e-12)
    assert int(stats["num_steps"]) < 15


# (error, across a pole) -> (kept, factor on h), by h 0.8 (0.05/error)^(1/2) within [0.1, 10].
RULE = [
    (0.05, 0.0, True, 0.8),
    (0.0125, 0.0, True, 1.6),
    (1e-12, 0.0, True, 10.0),
    (0.0, 0.0, True, 10.0),
    (0.2, 0.0, True, 0.4),
    (0.21, 0.0, False, 0.8 * (0.05 / 0.21) ** 0.5),
    (1e9, 0.0, False, 0.1),
    (np.inf, 0.0, False, 0.1),
    (1e-12, 1.0, False, 0.25),
    (1e9, 1.0, False, 0.1),
]


@pytest.mark.parametrize(("error", "across_pole", "kept", "factor"), RULE)
def test_step_sizes_follow_the_rule(error, across_pole, kept, factor):
    controller = GrowWherePredictable(error_tolerance=0.05, reject_above=0.2, growth=10.0)
    report = StepReport(error=jnp.asarray(error), across_pole=jnp.asarray(across_pole))
    keep, t0, t1, *_ = controller.adapt_step_size(
        jnp.asarray(0.0), jnp.asarray(3.0), None, None, None, report, 1, None
    )
    assert bool(keep) is kept
    # The flow does not depend on time: every step starts again where the last one began.
    assert float(t0) == 0
    np.testing.assert_allclose(t1, 3.0 * factor, rtol=1e-15)


def test_a_step_without_error_has_a_derivative():
    # A linear network, and a step of (1/1 + 1)^-1: the miss is 0, where sqrt(1/miss) has no slope.
    solver = irnn.PseudoTransient(first_step=1.0)

    def outputs(bias):
        layer = irnn.Layer(feedforward=jnp.eye(2), lateral=jnp.zeros((2, 2)), bias=bias)
        net = irnn.Network(layers=(layer,))
        return irnn.apply(
            net, jnp.ones(2), solver=solver, activation=identity, gradient=irnn.Unrolled()
        )

    np.testing.assert_allclose(jax.jit(jax.jacrev(outputs))(jnp.zeros(2)), np.eye(2), atol=1e-12)
