"""One training step for whatever holds an equilibrium: `make_train_step(..., solve=)`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import irnn_jax as irnn


def cell(params, y, x):
    return jnp.tanh(y @ params["W"] + x @ params["Q"])


def solve(params, x, probe):
    y0 = jnp.zeros((len(x), 3))
    found = irnn.fixed_point(cell, params, x, y0, batched=True, probe=probe)
    return found.activities @ params["V"], found


def parameters():
    rng = np.random.default_rng(0)
    shapes = {"W": (3, 3), "Q": (2, 3), "V": (3, 1)}
    return {name: jnp.asarray(0.3 * rng.normal(size=shape)) for name, shape in shapes.items()}


def batch():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(8, 2))
    return jnp.asarray(x), jnp.asarray(np.sin(x.sum(1, keepdims=True)))


def test_a_cell_trains_with_its_mask_metrics_and_guard():
    optimizer = optax.adam(0.03)
    step = irnn.make_train_step(irnn.squared_error, optimizer, solve=solve)
    state = irnn.TrainState.create(parameters(), optimizer)
    state, first = step(state, batch())
    metrics = first
    for _ in range(200):
        state, metrics = step(state, batch())
    assert metrics.converged == 1
    assert metrics.adjoint_converged == 1
    assert 0 < metrics.adjoint_residual < 1e-8
    assert metrics.loss < 0.1 * first.loss


def test_its_gradient_is_that_of_the_mean_loss():
    x, target = batch()
    optimizer = optax.sgd(1.0)
    step = irnn.make_train_step(irnn.squared_error, optimizer, solve=solve, guard=None)
    state, _ = step(irnn.TrainState.create(parameters(), optimizer), (x, target))

    def loss(params):
        return jnp.mean((solve(params, x, None)[0] - target) ** 2)

    expected = jax.tree.map(lambda p, g: p - g, parameters(), jax.grad(loss)(parameters()))
    for a, b in zip(jax.tree.leaves(state.net), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_a_sample_that_is_no_number_is_left_out():
    x, target = batch()
    optimizer = optax.sgd(1.0)
    step = irnn.make_train_step(irnn.squared_error, optimizer, solve=solve, guard=None)
    start = irnn.TrainState.create(parameters(), optimizer)
    bad, metrics = step(start, (x.at[0, 0].set(jnp.nan), target))
    good, _ = step(start, (x[1:], target[1:]))
    np.testing.assert_allclose(metrics.converged, 7 / 8)
    for a, b in zip(jax.tree.leaves(bad.net), jax.tree.leaves(good.net), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_the_guard_takes_back_what_lost_an_equilibrium():
    """A step that makes every sample run away: W = 5 in tanh has no rest that is near."""
    guard = irnn.Guard(every=1)
    optimizer = optax.sgd(1e4)
    step = irnn.make_train_step(irnn.squared_error, optimizer, solve=solve, guard=guard)
    x, target = batch()
    start = irnn.TrainState.create(parameters(), optimizer)
    state, metrics = step(start, (x, 100 * target))
    assert metrics.rejected
    for a, b in zip(jax.tree.leaves(state.net), jax.tree.leaves(start.net), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_equinox_module_with_an_equilibrium_inside_trains_in_many_runs():
    class Model(eqx.Module):
        inner: irnn.Network
        out: eqx.nn.Linear

        def __init__(self, key):
            first, second = jax.random.split(key)
            self.inner = irnn.init(first, (2, 4))
            self.out = eqx.nn.Linear(4, 1, key=second, dtype=float)

    def solve(model, x, probe):
        found = irnn.equilibrium(model.inner, x, probe=probe)
        return jax.vmap(model.out)(found.activities[-1]), found

    optimizer = optax.adam(0.03)
    step = irnn.make_train_step(irnn.squared_error, optimizer, solve=solve)
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.vmap(lambda key: irnn.TrainState.create(Model(key), optimizer))(keys)
    x, target = batch()
    states, metrics = irnn.fit(
        states, keys, step=step, sample=lambda key: (x, target), num_epochs=2, num_steps=50
    )
    assert metrics.loss.shape == (3, 2, 50)
    assert (metrics.loss[:, -1, -1] < 0.5 * metrics.loss[:, 0, 0]).all()


def test_what_is_said_twice_or_not_at_all_is_refused():
    optimizer = optax.sgd(1.0)
    with pytest.raises(ValueError, match="say inside of it how it is solved, and not by gradient="):
        irnn.make_train_step(
            irnn.squared_error, optimizer, solve=solve, gradient=irnn.SemiGradient()
        )
    with pytest.raises(ValueError, match="penalty is known for networks only"):
        irnn.make_train_step(irnn.squared_error, optimizer, solve=solve, penalty=0.1)
    step = irnn.make_train_step(
        irnn.squared_error, optimizer, solve=lambda params, x, probe: x @ params
    )
    with pytest.raises(ValueError, match="solve must return"):
        step(irnn.TrainState.create(jnp.ones((2, 1)), optimizer), batch())
