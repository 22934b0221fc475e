"""The guard in many runs at once, and in whole trainings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax.data import patterns
from tests.problems import CHEAP
from tests.pushes import NEURON, NEURON_BATCH, PUSH, all_finite, pushing

NEURON_OPTIMIZER = pushing(PUSH)
NEURON_STEP = irnn.make_train_step(
    irnn.squared_error, NEURON_OPTIMIZER, solver=CHEAP, guard=irnn.Guard(every=2)
)


def _sample(key: jax.Array) -> Any:
    del key
    return NEURON_BATCH


def _runs(sizes: list[float]) -> irnn.TrainState:
    """States of the neuron, pushed by different sizes, as a program that donates hands them."""

    def create(size: jax.Array) -> irnn.TrainState:
        state = irnn.TrainState.create(
            jax.tree.map(lambda leaf: leaf + 0 * size, NEURON), NEURON_OPTIMIZER
        )
        opt_state: Any = state.opt_state
        return state._replace(opt_state=opt_state._replace(size=size))

    return jax.jit(jax.vmap(create))(jnp.array(sizes))


def test_only_the_run_that_rose_is_taken_back():
    sizes = [1e-3, 1.0, 0.0]
    states, keys = _runs(sizes), jax.random.split(jax.random.key(0), 3)
    fit = functools.partial(irnn.fit, step=NEURON_STEP, sample=_sample, num_epochs=1, num_steps=4)
    states, metrics = fit(states, keys)
    # A chunk ends with a look, whose nets are in two places: both are given away again.
    states, second = fit(states, keys)
    rejected = np.concatenate([metrics.rejected, second.rejected], axis=2)[:, 0]
    scales = np.concatenate([metrics.update_scale, second.update_scale], axis=2)[:, 0]
    assert not np.any(rejected[[0, 2]])
    np.testing.assert_array_equal(scales[[0, 2]], 1)
    np.testing.assert_array_equal(rejected[1, :4], [False, True, False, True])
    np.testing.assert_array_equal(scales[1, :5], [1, 1, 0.5, 0.5, 0.25])
    np.testing.assert_array_equal(states.step, [8, 8, 8])
    np.testing.assert_array_equal(states.opt_state.count, [8, 8, 8])
    bias = np.asarray(states.net.layers[0].bias)
    np.testing.assert_allclose(bias[[0, 2], 0], [8e-3, 0], rtol=1e-12)
    # Each run is what it is alone.
    for run, size in enumerate(sizes):
        alone = jax.tree.map(lambda leaf: leaf[0], _runs([size]))
        for number in range(8):
            alone, own = NEURON_STEP(alone, NEURON_BATCH)
            assert bool(own.rejected) == rejected[run, number]
            assert float(own.update_scale) == scales[run, number]
        np.testing.assert_allclose(alone.net.layers[0].bias, bias[run], rtol=1e-12, atol=1e-15)


def test_parameters_stay_finite_whatever_the_learning_rate():
    optimizer = irnn.adam(30.0)
    solver, guard = irnn.Picard(max_steps=50), irnn.Guard(every=3)
    step = irnn.make_train_step(irnn.squared_error, optimizer, solver=solver, guard=guard)

    def sample(key: jax.Array) -> Any:
        x = jax.random.normal(key, (4, 2))
        return x.at[0, 0].set(jnp.where(x[1, 0] > 0, jnp.nan, jnp.inf)), jax.nn.sigmoid(x[:, :1])

    states = jax.vmap(lambda key: irnn.TrainState.create(irnn.init(key, (2, 2, 1)), optimizer))(
        jax.random.split(jax.random.key(0), 3)
    )
    keys = jax.random.split(jax.random.key(1), 3)
    states, metrics = irnn.fit(states, keys, step=step, sample=sample, num_epochs=1, num_steps=90)
    assert all_finite((states, metrics))
    assert np.all((metrics.update_scale > 0) & (metrics.update_scale <= 1))
    assert np.all(np.any(metrics.rejected, axis=2))
    # Only at a look.
    assert not np.any(np.delete(np.asarray(metrics.rejected), np.s_[2::3], axis=2))


# --- XOR ----------------------------------------------------------------------------------------


def _xor_errors(num_seeds: int, epochs: tuple[int, ...]) -> list[np.ndarray]:
    """The mean squared error of Y1, for each seed, after each of the chunks of 1,000 steps."""
    x, target = patterns()

    def loss(output, target):
        return jnp.mean((output[0] - target[0]) ** 2)

    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(loss, optimizer)
    keys = jax.random.split(jax.random.key(0), num_seeds)
    states = jax.vmap(lambda key: irnn.TrainState.create(irnn.init(key, (2, 2)), optimizer))(keys)

    def sample(key):
        return x, target

    errors = []
    for num_epochs in epochs:
        states, _ = irnn.fit(
            states, keys, step=step, sample=sample, num_epochs=num_epochs, num_steps=1000
        )
        outputs = jax.vmap(lambda net: irnn.apply(net, x))(states.net)
        errors.append(np.mean((np.asarray(outputs)[:, :, 0] - target[:, 0]) ** 2, axis=1))
    return errors


def test_xor_once_learnt_is_kept():
    # One program for all chunks, and not a second one for three epochs at once.
    after_1000, _, _, after_4000 = _xor_errors(20, (1, 1, 1, 1))
    learnt = after_1000 < 0.01
    assert np.sum(learnt) >= 18
    assert np.all(after_4000[learnt] < 0.01)


@pytest.mark.slow
def test_xor_is_learnt_by_nearly_every_seed_and_kept():
    for errors in _xor_errors(100, (1, 3, 16)):
        assert np.sum(errors < 0.01) >= 99
