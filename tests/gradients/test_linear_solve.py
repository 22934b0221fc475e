"""The linear solve of the exact gradient: hard systems, and solvers that a caller brings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.special import expit

import irnn_jax as irnn
from tests.problems import inputs, network, relative_error


def _excitation_and_inhibition(n: int) -> tuple[np.ndarray, np.ndarray]:
    """At Y = 1/2, D = 1/4, where the excitatory block of I - D A is singular, and the whole not."""
    half = n // 2
    A = np.zeros((n, n))
    A[:half, :half] = 4 * np.eye(half)
    A[:half, half:] = -6 * np.eye(half)
    A[half:, :half] = 6 * np.eye(half)
    return A, -A.sum(axis=1) / 2


# One that is eliminated by blocks, by sweeps, and that is iterated first.
@pytest.mark.parametrize("n", [2, 6, 10, 18, 24])
def test_a_leading_block_that_is_singular(n):
    A, b = _excitation_and_inhibition(n)
    cotangent = np.linspace(1, 2, n)

    def loss(b):
        layer = irnn.Layer(feedforward=jnp.zeros((n, 1)), lateral=jnp.asarray(A), bias=b)
        result = irnn.equilibrium(irnn.Network(layers=(layer,)), jnp.zeros(1))
        return result.activities[0] @ cotangent, result

    gradient, result = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(b))
    assert bool(result.converged)
    y = np.asarray(result.activities[0])
    slope = expit(A @ y + b) * expit(-A @ y - b)
    expected = slope * np.linalg.solve((np.eye(n) - slope[:, None] * A).T, cotangent)
    assert relative_error(gradient, expected) <= 1e-10


KRYLOV = {
    "bicgstab": lx.BiCGStab(rtol=1e-10, atol=1e-10),
    "gmres": lx.GMRES(rtol=1e-10, atol=1e-10),
}
W = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5)) / 2)
X = jnp.asarray(np.random.default_rng(1).normal(size=(6, 5)))


def _of_network(hidden: int, weights: Any, probe: Any, **options: Any) -> Any:
    net = network((5, hidden, 3), scale=2 / np.sqrt(hidden))
    first, *others = net.layers
    first = first._replace(feedforward=first.feedforward @ weights)
    return irnn.apply(net._replace(layers=(first, *others)), X, probe=probe, **options)


def _of_cells(weights: Any, probe: Any, **options: Any) -> Any:
    def cell(weights, y, x):
        return jax.nn.sigmoid(weights @ y + x)

    def one(x, probe):
        return irnn.fixed_point(cell, weights, x, jnp.zeros(5), probe=probe, **options).activities

    return jax.vmap(one)(X, probe)


def _of_a_batch(weights: Any, probe: Any, **options: Any) -> Any:
    def cell(weights, y, x):
        return jax.nn.sigmoid(y @ weights.T + x)

    y0 = jnp.zeros_like(X)
    options["probe"] = probe
    return irnn.fixed_point(cell, weights, X, y0, batched=True, **options).activities


PROBLEMS = {
    "network_7": functools.partial(_of_network, 4),
    "network_43": functools.partial(_of_network, 40),
    "cells": _of_cells,
    "batched_cell": _of_a_batch,
}


@functools.cache
def _gradient(problem: str, solver: str | None) -> tuple[Any, irnn.AdjointReport]:
    gradient = irnn.Exact(linear_solver=KRYLOV.get(solver or ""))

    def loss(weights, probe):
        return jnp.sum(PROBLEMS[problem](weights, probe, gradient=gradient) ** 2)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(W, irnn.adjoint_probe((6,)))


@pytest.mark.parametrize("solver", KRYLOV)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_solver_of_lineax(problem, solver):
    expected, _ = _gradient(problem, None)
    actual, report = _gradient(problem, solver)
    np.testing.assert_array_equal(report.failed, np.zeros(6))
    assert np.all(report.residual <= 1e-8)
    assert relative_error(actual, expected) < 1e-7


@pytest.mark.parametrize("problem", PROBLEMS)
def test_it_is_the_one_that_solves(problem):
    """One that gives up after a step is reported, so that the default has not stepped in."""
    one_step = irnn.Exact(linear_solver=lx.BiCGStab(rtol=1e-12, atol=1e-12, max_steps=1))

    def loss(weights, probe):
        return jnp.sum(PROBLEMS[problem](weights, probe, gradient=one_step) ** 2)

    gradient, report = jax.jit(jax.grad(loss, argnums=(0, 1)))(W, irnn.adjoint_probe((6,)))
    np.testing.assert_array_equal(report.failed, np.ones(6))
    assert np.all(report.residual > 1e-8)
    np.testing.assert_array_equal(gradient, np.zeros((5, 5)))


def test_a_second_derivative_through_a_solver_of_lineax():
    direction = jnp.asarray(np.random.default_rng(2).normal(size=(5, 5)))

    def along(step, solver):
        def loss(weights):
            probe = irnn.adjoint_probe((6,))
            gradient = irnn.Exact(linear_solver=solver)
            return jnp.sum(_of_cells(weights, probe, gradient=gradient) ** 2)

        return jnp.vdot(jax.grad(loss)(W + step * direction), direction)

    found = [
        jax.jit(jax.grad(along), static_argnums=1)(0.0, solver)
        for solver in (None, KRYLOV["bicgstab"])
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-7)


# --- checkpoints of an unrolled gradient --------------------------------------------------------

UNROLLING = {
    "pseudo_transient": irnn.PseudoTransient(max_steps=16),
    "newton_krylov": irnn.NewtonKrylov(max_steps=16),
    "exponential": irnn.Exponential(max_steps=16),
    "anderson": irnn.Anderson(max_steps=40),
    "flow": irnn.Flow(max_steps=300),
    "picard": irnn.Picard(max_steps=100),
    "euler": irnn.Euler(step_size=0.5, max_steps=150),
    "runge_kutta": irnn.RungeKutta4(num_steps=60),
    "cascade": irnn.Cascade(solvers=(irnn.Picard(max_steps=100), irnn.Euler(step_size=0.5))),
    "in_chunks": irnn.InChunks(solver=irnn.PseudoTransient(max_steps=16), width=2),
    "mixed_precision": irnn.MixedPrecision(solver=irnn.PseudoTransient(max_steps=16)),
    "auto": irnn.Auto(),
}
# Two solvers in one program each are as much as several others take.
SLOW = ("cascade", "mixed_precision", "auto", "in_chunks")


@functools.cache
def _unrolled(solver: str, checkpoints: int | None) -> Any:
    net = network((2, 3, 1), scale=0.5)
    # States that are larger than what else a program wants.
    x = inputs(net, batch=150)

    def loss(net):
        mode = irnn.Unrolled(checkpoints=checkpoints)
        result = irnn.equilibrium(net, x, solver=UNROLLING[solver], gradient=mode)
        return jnp.sum(result.activities[-1] ** 2), result.converged

    gradient = jax.jit(jax.grad(loss, has_aux=True)).lower(net).compile()
    memory = gradient.memory_analysis()
    assert memory is not None
    found, converged = gradient(net)
    # Exponential alone leaves a sample that is led elsewhere.
    assert np.mean(converged) > 0.95
    return found, memory.temp_size_in_bytes


@pytest.mark.parametrize(
    "solver",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in UNROLLING],
)
def test_checkpoints_are_honoured_by_every_solver(solver):
    """The same gradient, from fewer states that are kept, or from more."""
    few, memory_of_few = _unrolled(solver, 2)
    many, memory_of_many = _unrolled(solver, 1000)
    assert relative_error(few, many) < 1e-11
    assert memory_of_few < memory_of_many
