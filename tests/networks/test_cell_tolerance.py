"""`tolerance=` of cells and of convolutional networks: honoured by every solver, and traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn

W = jnp.asarray(0.3 * np.random.default_rng(0).normal(size=(4, 4)))
X = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)))
SOLVERS = {
    "default": irnn.Auto(),
    "picard": irnn.Picard(),
    "anderson": irnn.Anderson(),
    "cascade": irnn.Cascade(solvers=(irnn.Exponential(), irnn.NewtonKrylov())),
    "flow": irnn.Flow(),
}


def cell(w, y, x):
    return jnp.tanh(y @ w + x)


def solved(tolerance, x=X, **options):
    start = jnp.zeros_like(x)
    return irnn.fixed_point(cell, W, x, start, tolerance=tolerance, **options)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_stops_there(name):
    solve = jax.jit(lambda tolerance: solved(tolerance, batched=True, solver=SOLVERS[name]))
    rough, fine = solve(1e-2), solve(1e-9)
    assert rough.converged.all()
    assert fine.converged.all()
    assert fine.residual.max() <= 1e-9
    assert rough.residual.max() > 1e-9
    assert (rough.num_steps < fine.num_steps).all()


def test_each_lane_has_its_own():
    """As cells of one sample, as cells of a batch, and both at once."""
    tolerances = jnp.array([1e-1, 1e-4, 1e-9])
    picard: Any = {"solver": irnn.Picard()}
    batched = jax.vmap(lambda t: solved(t, batched=True, **picard).num_steps)(tolerances)
    both = jax.vmap(lambda t: jax.vmap(lambda x: solved(t, x, **picard).num_steps)(X))(tolerances)
    for tolerance, whole, single in zip(tolerances, batched, both, strict=True):
        alone = jnp.stack([solved(tolerance, x, **picard).num_steps for x in X])
        np.testing.assert_array_equal(single, alone)
        np.testing.assert_array_equal(whole, jnp.full(5, alone.max()))


def test_it_has_no_gradient_and_moves_none():
    def loss(w, tolerance):
        found = irnn.fixed_point(cell, w, X, jnp.zeros_like(X), batched=True, tolerance=tolerance)
        return found.activities.sum()

    gradient, of_tolerance = jax.grad(loss, argnums=(0, 1))(W, 1e-11)
    np.testing.assert_allclose(gradient, jax.grad(loss)(W, None), rtol=0, atol=1e-9)
    assert of_tolerance == 0


def test_convolutional_networks_take_any_solver_and_a_traced_one():
    net = irnn.conv.init(jax.random.key(0), (4, 4, 1), (2,))
    net = jax.tree.map(lambda leaf: leaf + 0.1, net)
    x = jnp.ones((3, 4, 4, 1))

    @jax.jit
    def residual(tolerance):
        return irnn.equilibrium(net, x, tolerance=tolerance, solver=SOLVERS["cascade"]).residual

    assert residual(1e-2).max() > 1e-8 > residual(1e-9).max()


def test_what_is_no_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        solved(0.0, batched=True)
    with pytest.raises(ValueError, match="tolerance must be one number"):
        solved(jnp.ones(5), batched=True)
