"""A solver, a gradient and a kind of problem of one's own: a class each, no change elsewhere."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax.gradients import Adjoint
from irnn_jax.gradients.base import relative_residual
from irnn_jax.implicit import Method, solve_implicitly
from irnn_jax.linalg.layout import SAMPLES_FIRST, Layout
from irnn_jax.linearisation import Linearisation
from irnn_jax.problem import Problem
from irnn_jax.solvers.base import Solved, solved_at, tolerance_at
from irnn_jax.xla.loops import Loop, Plain
from tests.problems import (
    DIFFERENCES,
    NETWORKS,
    central_differences,
    inputs,
    reference_equilibrium,
    relative_error,
    squared_error,
    targets,
)

NET = NETWORKS["two_layers"]
X, TARGET = inputs(NET), targets(NET)

# --- a solver -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damped:
    """Y <- Y + damping (g(Y) - Y), the damped Picard iteration."""

    damping: float = 0.8
    max_steps: int = 300
    tolerance: float | None = None

    def solve(self, problem: Problem, y0: Any, loop: Loop) -> Solved:
        size = problem.layout.size

        def moving(carry: Any) -> Any:
            return size(carry[1]) > tolerance_at(self, problem, carry[0])

        def advance(number: Any, carry: Any) -> Any:
            y, velocity, steps = carry
            going = moving(carry)
            y = jnp.where(going, y + self.damping * velocity, y)
            return y, problem.value(y) - y, steps + going

        zeros = jnp.zeros(size(y0).shape, jnp.int32)
        start = (y0, problem.value(y0) - y0, zeros)
        y, velocity, steps = loop.repeat(advance, start, moving, self.max_steps)
        return solved_at(
            problem,
            y,
            num_steps=steps,
            finished=~(size(velocity) > tolerance_at(self, problem, y)),
            residual=size(velocity),
        )


# --- a gradient ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Richardson:
    """W <- w + c - (I - J^T) w, until nothing is left of c."""

    max_steps: int = 200

    def loop(self) -> Loop:
        return Plain()

    def adjoint(self, linear: Linearisation, cotangent: Any) -> Adjoint:
        pull, size = linear.product(True), linear.layout.size
        enough = 1e-13 * size(cotangent)

        def left(w: Any) -> Any:
            return cotangent - w + pull(w)

        w = Plain().repeat(
            lambda _, w: w + left(w), cotangent, lambda w: size(left(w)) > enough, self.max_steps
        )
        residual = relative_residual(linear, w, cotangent)
        return Adjoint(state=w, residual=residual, converged=residual < 1e-12)


OWN = {
    "solver": {"solver": Damped()},
    "gradient": {"gradient": Richardson()},
    "both": {"solver": Damped(), "gradient": Richardson()},
    "unrolled": {"solver": Damped(), "gradient": irnn.Unrolled()},
}


@pytest.mark.parametrize("name", OWN)
def test_of_networks(name):
    def loss(net, x):
        result = irnn.equilibrium(net, x, **OWN[name])
        return squared_error(result.activities[-1], TARGET), result

    gradients, result = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(NET, X)
    assert np.all(result.converged)
    assert relative_error(result.activities, reference_equilibrium(NET, X)) < 1e-11

    def reference(arguments):
        return squared_error(reference_equilibrium(*arguments)[-1], TARGET)

    expected = central_differences(reference, (NET, X))
    assert relative_error(gradients, expected) < (1e-8 if name == "unrolled" else DIFFERENCES)


@pytest.mark.parametrize("name", OWN)
def test_of_cells(name):
    W = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)) / 3)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))

    def solve(W, x, **options):
        cell = lambda W, y, x: jnp.tanh(y @ W.T + x)  # noqa: E731
        return irnn.fixed_point(cell, W, x, jnp.zeros_like(x), batched=True, **options)

    def loss(W, **options):
        result = solve(W, x, **options)
        return jnp.sum(result.activities**2), result.converged

    gradient, converged = jax.grad(loss, has_aux=True)(W, **OWN[name])
    assert np.all(converged)
    expected, _ = jax.grad(loss, has_aux=True)(W)
    assert relative_error(gradient, expected) < (1e-8 if name == "unrolled" else DIFFERENCES)


def test_in_training_and_in_a_cascade():
    optimizer = irnn.adam(0.01)
    solver = irnn.Cascade(solvers=(Damped(max_steps=2), irnn.PseudoTransient()))
    nets = []
    for options in ({}, {"solver": solver, "gradient": Richardson()}):
        step = irnn.make_train_step(irnn.squared_error, optimizer, guard=None, **options)
        state, metrics = step(irnn.TrainState.create(NET, optimizer), (X, TARGET))
        assert float(metrics.converged) == float(metrics.adjoint_converged) == 1
        nets.append(state.net)
    assert relative_error(*nets) < 1e-9


def test_what_a_solver_of_ones_own_does_not_reach_is_flagged():
    result = irnn.equilibrium(NET, X, solver=Damped(max_steps=3))
    assert not np.any(result.converged)
    np.testing.assert_array_equal(result.status, irnn.Status.MAX_STEPS)
    np.testing.assert_array_equal(result.num_steps, 3)


# --- a kind of problem --------------------------------------------------------------------------


class RankOne(NamedTuple):
    """Weights diag(d) + u v^T, and drives (batch, n)."""

    diagonal: Any
    left: Any
    right: Any
    drive: Any


class RankOneProblem(Problem):
    """Y = tanh((diag(d) + u v^T) Y + b): products in O(n), samples first."""

    weights: RankOne
    tolerance: Any = None
    contracts: Any = None
    scale: Any = None
    layout: ClassVar[Layout] = SAMPLES_FIRST

    def value(self, y: Any) -> Any:
        return jnp.tanh(_times(self.weights, y, transposed=False) + self.weights.drive)

    def linearise(self, y: Any) -> "RankOneLinearisation":
        return RankOneLinearisation(self.weights, 1 - self.value(y) ** 2)


class RankOneLinearisation(Linearisation):
    """J = D (diag(d) + u v^T)."""

    weights: RankOne
    slope: Any
    layout: ClassVar[Layout] = SAMPLES_FIRST

    def product(self, transposed: bool) -> Callable[[Any], Any]:
        if transposed:
            return lambda w: _times(self.weights, self.slope * w, transposed=True)
        return lambda v: self.slope * _times(self.weights, v, transposed=False)


def _times(weights: RankOne, y: Any, *, transposed: bool) -> Any:
    left, right = weights.left, weights.right
    if transposed:
        left, right = right, left
    return weights.diagonal * y + left * jnp.sum(right * y, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankOneKind:
    """The static part, of which there is none here."""

    def problem(self, inputs: RankOne) -> RankOneProblem:
        return RankOneProblem(weights=inputs)

    def lay_out(self, solve: Callable[..., Any]) -> Callable[..., Any]:
        return lambda inputs, y0: solve(self, inputs, y0)

    def without_failed(self, inputs: RankOne, y: Any, usable: Any) -> tuple[RankOne, Any]:
        return inputs._replace(drive=jnp.where(usable, inputs.drive, 0)), jnp.where(usable, y, 0)

    def cotangents(self, inputs: RankOne, y: Any, w: Any, usable: Any) -> RankOne:
        inputs, y = self.without_failed(inputs, y, usable)
        return jax.vjp(lambda inputs: self.problem(inputs).value(y), inputs)[1](w)[0]


N, BATCH = 7, 5


def _weights(seed: int = 0) -> RankOne:
    rng = np.random.default_rng(seed)
    shapes = RankOne((N,), (N,), (N,), (BATCH, N))
    return RankOne(*(jnp.asarray(rng.normal(size=shape) / 2) for shape in shapes))


def _solve(weights: RankOne, probe: Any = None, **options: Any) -> Solved:
    options = {"solver": irnn.Auto(), "gradient": irnn.Exact()} | options
    probe = irnn.adjoint_probe((BATCH,)) if probe is None else probe
    method = Method(kind=RankOneKind(), **options)
    return solve_implicitly(method, weights, jnp.zeros_like(weights.drive), probe)


def _as_network(weights: RankOne) -> tuple[irnn.Network, Any]:
    """The same with a full matrix."""
    lateral = jnp.diag(weights.diagonal) + jnp.outer(weights.left, weights.right)
    layer = irnn.Layer(feedforward=jnp.eye(N), lateral=lateral, bias=jnp.zeros(N))
    return irnn.Network(layers=(layer,)), weights.drive


def _loss_of_network(weights: RankOne) -> Any:
    net, x = _as_network(weights)
    return jnp.sum(jnp.sin(irnn.apply(net, x, activation=jnp.tanh)))


KINDS = {
    "default": {},
    "continuation": {"solver": irnn.PseudoTransient()},
    "newton": {"solver": irnn.NewtonKrylov()},
    "anderson": {"solver": irnn.Anderson()},
    "euler": {"solver": irnn.Euler(step_size=0.5)},
    "neumann": {"solver": irnn.Picard(), "gradient": irnn.Neumann(num_terms=200)},
    "unrolled": {"solver": irnn.Picard(), "gradient": irnn.Unrolled()},
    "own": {"solver": Damped(), "gradient": Richardson()},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_of_problem_has_every_solver_and_gradient(name):
    weights = _weights()

    def loss(weights, probe):
        solved = _solve(weights, probe, **KINDS[name])
        return jnp.sum(jnp.sin(solved.state)), solved

    probe = irnn.adjoint_probe((BATCH,))
    (gradient, report), solved = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(
        weights, probe
    )
    np.testing.assert_array_equal(solved.status, np.full((BATCH, 1), irnn.Status.CONVERGED))
    expected = irnn.equilibrium(*_as_network(weights), activation=jnp.tanh)
    np.testing.assert_allclose(solved.state, expected.activities[0], rtol=0, atol=1e-10)
    assert report.residual.shape == report.failed.shape == (BATCH,)
    np.testing.assert_array_equal(report.failed, np.zeros(BATCH))
    bound = 1e-8 if name == "unrolled" else 1e-9
    assert relative_error(gradient, jax.grad(_loss_of_network)(weights)) < bound


def test_a_kind_of_problem_has_second_derivatives_and_vmap():
    weights, direction = _weights(), _weights(1)

    def along(loss):
        def value(step):
            return loss(jax.tree.map(lambda a, b: a + step * b, weights, direction))

        return jax.grad(jax.grad(value))(0.0)

    second = along(lambda weights: jnp.sum(jnp.sin(_solve(weights).state)))
    np.testing.assert_allclose(second, along(_loss_of_network), rtol=1e-8)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), weights, direction)
    together = jax.vmap(lambda weights: _solve(weights).state)(both)
    for found, alone in zip(together, (weights, direction), strict=True):
        np.testing.assert_allclose(found, _solve(alone).state, rtol=0, atol=1e-11)


def test_what_fails_of_a_kind_of_problem_is_left_out():
    weights = _weights()
    sick = weights._replace(drive=weights.drive.at[2].set(jnp.nan))

    def loss(weights, keep):
        solved = _solve(weights)
        return jnp.sum(jnp.where(keep[:, None], jnp.sin(solved.state), 0)), solved

    gradient = jax.jit(jax.grad(loss, has_aux=True))
    others = np.arange(BATCH) != 2
    actual, solved = gradient(sick, jnp.ones(BATCH, bool))
    expected, healthy = gradient(weights, jnp.asarray(others))
    np.testing.assert_array_equal(solved.status[:, 0] == irnn.Status.CONVERGED, others)
    np.testing.assert_array_equal(solved.state[others], healthy.state[others])
    assert relative_error(actual, expected) < 1e-13
