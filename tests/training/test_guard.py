"""The guard takes back what lost an equilibrium, and nothing else."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import irnn_jax as irnn
from tests.problems import CHEAP, NETWORKS, inputs, oscillator, targets
from tests.pushes import (
    DRIVE,
    NEURON,
    NEURON_BATCH,
    PUSH,
    all_finite,
    assert_equal,
    neuron_step,
    pushing,
)

# --- a Guard ------------------------------------------------------------------------------------

BAD_FIELDS = [
    ({"every": 0}, "every must be at least 1, got 0"),
    ({"every": -3}, "every must be at least 1, got -3"),
    ({"rise": 0.0}, "rise must be positive, got 0.0"),
    ({"rise": -1.0}, "rise must be positive, got -1.0"),
    ({"rise": float("nan")}, "rise must be positive, got nan"),
    ({"shrink": 0.0}, "shrink must be between 0 and 1, got 0.0"),
    ({"shrink": 1.0}, "shrink must be between 0 and 1, got 1.0"),
    ({"shrink": float("nan")}, "shrink must be between 0 and 1, got nan"),
    ({"grow": 0.9}, "grow must be at least 1, got 0.9"),
    ({"grow": float("nan")}, "grow must be at least 1, got nan"),
]


@pytest.mark.parametrize(("fields", "words"), BAD_FIELDS)
def test_fields_are_checked_when_built(fields, words):
    with pytest.raises(ValueError, match=words):
        irnn.Guard(**fields)


def test_a_guard_is_a_frozen_keyword_only_value():
    assert irnn.Guard() == irnn.Guard(every=20, rise=3.0, shrink=0.5, grow=1.1)
    assert hash(irnn.Guard(every=3)) == hash(irnn.Guard(every=3))
    positional: Any = irnn.Guard
    with pytest.raises(TypeError, match="positional argument"):
        positional(20)


# --- between two looks --------------------------------------------------------------------------

TWO_LAYERS = NETWORKS["two_layers"]
BATCH = (inputs(TWO_LAYERS), targets(TWO_LAYERS))
ADAM = irnn.adam(0.01)


def test_between_looks_and_after_a_good_one_a_step_is_the_optimisers():
    guarded = irnn.make_train_step(irnn.squared_error, ADAM, solver=CHEAP)
    unguarded = irnn.make_train_step(irnn.squared_error, ADAM, solver=CHEAP, guard=None)
    start = state = expected = irnn.TrainState.create(TWO_LAYERS, ADAM)
    for number in range(1, 22):
        state, metrics = guarded(state, BATCH)
        expected, plain = unguarded(expected, BATCH)
        # Times one; but the scale takes part in how XLA rounds, so not bit for bit.
        for a, b in zip(*map(jax.tree.leaves, (state[:3], expected[:3])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(metrics.loss, plain.loss, rtol=1e-10)
        assert not metrics.rejected
        assert float(metrics.update_scale) == 1
        # The look at step 20 is the first, and what it saw is what it goes back to.
        assert state.guard is not None
        if number < 20:
            assert_equal(state.guard.net, start.net)
        if number == 20:
            assert_equal(state.guard.net, state.net)
    # Without a guard its state is carried along untouched.
    assert_equal(expected.guard, start.guard)


def test_without_a_guard_a_step_is_the_optimisers_own():
    def loss(net):
        return jnp.mean((irnn.apply(net, BATCH[0], solver=CHEAP) - BATCH[1]) ** 2)

    @jax.jit
    def own(net, opt_state):
        updates, opt_state = ADAM.update(jax.grad(loss)(net), opt_state, net)
        return optax.apply_updates(net, updates), opt_state

    step = irnn.make_train_step(irnn.squared_error, ADAM, solver=CHEAP, guard=None)
    state = irnn.TrainState.create(TWO_LAYERS, ADAM)
    net, opt_state = state.net, state.opt_state
    for _ in range(3):
        state, _ = step(state, BATCH)
        net, opt_state = own(net, opt_state)
    for a, b in zip(
        *map(jax.tree.leaves, ((state.net, state.opt_state), (net, opt_state))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-15)


# --- a look -------------------------------------------------------------------------------------


def test_a_loss_that_rose_is_taken_back_and_the_scale_recovers():
    # After the first two steps there is no push left, and nothing more to take back.
    step, start = neuron_step(2, irnn.Guard(every=2))
    state, metrics = step(start, NEURON_BATCH)
    assert not metrics.rejected
    assert state.guard is not None
    np.testing.assert_array_equal(state.net.layers[0].bias, [1.0])
    assert_equal(state.guard, start.guard)
    state, metrics = step(state, NEURON_BATCH)
    assert bool(metrics.rejected)
    assert float(metrics.update_scale) == 1  # of this step; the next is smaller
    assert_equal(state.net, start.net)
    assert_equal(state.guard.net, start.net)
    assert float(state.guard.scale) == 0.5
    # The optimiser and the count go on.
    assert int(state.step) == int(state.opt_state.count) == 2
    scales = []
    for _ in range(18):
        state, metrics = step(state, NEURON_BATCH)
        assert not metrics.rejected
        scales.append(float(metrics.update_scale))
    assert_equal(state.net, start.net)
    assert int(state.step) == int(state.opt_state.count) == 20
    expected = np.minimum(1, np.repeat(0.5 * 1.1 ** np.arange(9), 2))
    np.testing.assert_allclose(scales, expected, rtol=1e-14)
    assert scales[-1] == 1


def test_updates_are_scaled_until_they_are_kept():
    step, state = neuron_step(10**6, irnn.Guard(every=1, shrink=0.25, grow=2.0))
    pushes, rejections, before = [], [], 0.0
    for _ in range(6):
        state, metrics = step(state, NEURON_BATCH)
        assert state.guard is not None
        assert_equal(state.guard.net, state.net)
        after = float(state.net.layers[0].bias[0])
        rejections.append(bool(metrics.rejected))
        pushes.append((after - before) / float(metrics.update_scale))
        before = after
    # Kept or not: all of the scaled push, or nothing.
    np.testing.assert_allclose(pushes, np.where(rejections, 0, 1), rtol=1e-12)
    assert rejections[0]
    assert not all(rejections)


def _losses(y: Any) -> Any:
    """The losses of the neuron at its bias of 0 and of 1, for the target `y`."""
    pushed = jax.tree.map(jnp.add, NEURON, PUSH)
    return [float(y["gain"] * irnn.apply(net, DRIVE)[0] - y["offset"]) for net in (NEURON, pushed)]


def test_a_negative_loss_is_compared_with_its_size():
    def loss(output, target):
        return target["gain"] * output[0] - target["offset"]

    step, start = neuron_step(1, irnn.Guard(every=1), loss)
    # Rises by less and by more than three times the loss it had, a large fall, and no change.
    for gain, offset, rejected in ((1.0, 2.0, False), (1.0, 0.35, True), (-9.0, 0.0, False)):
        target = {"gain": jnp.array([gain]), "offset": jnp.array([offset])}
        before, after = _losses({"gain": gain, "offset": offset})
        assert before < 0
        assert (after - before > 3 * abs(before)) == rejected
        state, metrics = step(start, (NEURON_BATCH[0], target))
        np.testing.assert_allclose(metrics.loss, before, rtol=1e-9)
        assert bool(metrics.rejected) == rejected
        still, metrics = step(state, (NEURON_BATCH[0], target))
        assert not metrics.rejected
        assert_equal(still.net, state.net)


# W of the oscillator, in two pushes: its sample at X = 0 then rests no more, and the sample that
# its drive holds, whose loss alone could be compared, does not move.
AT_REST = irnn.Network(
    layers=(irnn.Layer(feedforward=jnp.eye(2), lateral=jnp.zeros((2, 2)), bias=jnp.zeros(2)),)
)
TOWARDS_CYCLE = jax.tree.map(lambda end, start: (end - start) / 2, oscillator(), AT_REST)
CYCLE_BATCH = (jnp.array([[40.0, 40.0], [0.0, 0.0]]), jnp.array([[0.9, 0.9], [0.5, 0.5]]))
SOLVER = irnn.PseudoTransient(max_steps=60)


def test_a_lost_equilibrium_is_taken_back():
    optimizer = pushing(TOWARDS_CYCLE, 2)
    make = functools.partial(irnn.make_train_step, irnn.squared_error, optimizer, solver=SOLVER)
    start = irnn.TrainState.create(AT_REST, optimizer)
    steps = {"guarded": make(guard=irnn.Guard(every=2)), "unguarded": make(guard=None)}
    converged, net = {}, {}
    for name, step in steps.items():
        state, seen = start, []
        for _ in range(3):
            state, metrics = step(state, CYCLE_BATCH)
            seen.append(metrics)
        assert [bool(m.rejected) for m in seen] == [False, name == "guarded", False]
        converged[name], net[name] = float(seen[-1].converged), state.net
    assert converged == {"guarded": 1.0, "unguarded": 0.5}
    assert_equal(net["guarded"], AT_REST)
    # A sample that had no equilibrium at the last look either is no reason to go back.
    lost = irnn.TrainState.create(net["unguarded"], optimizer)
    for _ in range(4):
        lost, metrics = steps["guarded"](lost, CYCLE_BATCH)
        assert float(metrics.converged) in (0.0, 0.5)
        assert not metrics.rejected


def test_a_state_without_a_guards_memory_trains_unguarded():
    step, start = neuron_step(10**6, irnn.Guard(every=1))
    state = irnn.TrainState(net=start.net, opt_state=start.opt_state, step=start.step)
    for number in (1, 2, 3):
        state, metrics = step(state, NEURON_BATCH)
        assert not metrics.rejected
        assert float(metrics.update_scale) == 1
        assert state.guard is None
        np.testing.assert_array_equal(state.net.layers[0].bias, [number])


def test_a_feedforward_network_is_never_looked_at():
    twin = irnn.Network(layers=(NEURON.layers[0]._replace(lateral=None),))
    push = irnn.Network(layers=(PUSH.layers[0]._replace(lateral=None),))
    optimizer = pushing(push)
    step = irnn.make_train_step(irnn.squared_error, optimizer, guard=irnn.Guard(every=1))
    start = state = irnn.TrainState.create(twin, optimizer)
    for number in (1, 2, 3):
        state, metrics = step(state, NEURON_BATCH)
        assert not metrics.rejected
        np.testing.assert_array_equal(state.net.layers[0].bias, [number])
    assert_equal(state.guard, start.guard)


def test_a_look_at_nothing_but_bad_samples_changes_nothing():
    step, start = neuron_step(0, irnn.Guard(every=1))
    for x, target in (
        (jnp.full((1, 1), jnp.nan), NEURON_BATCH[1]),
        (NEURON_BATCH[0], jnp.full((1, 1), jnp.nan)),
    ):
        state, metrics = step(start, (x, target))
        assert float(metrics.converged) == 0
        assert not metrics.rejected
        assert_equal((state.net, state.guard), (start.net, start.guard))
    assert all_finite(metrics)


def test_a_bad_sample_does_not_hide_a_loss_that_rose():
    step, start = neuron_step(2, irnn.Guard(every=1))
    bad = (jnp.array([[jnp.nan], [DRIVE[0]]]), jnp.full((2, 1), 0.32))
    state, metrics = step(start, bad)
    assert float(metrics.converged) == 0.5
    assert bool(metrics.rejected)
    assert_equal(state.net, start.net)


def test_the_guards_memory_has_the_dtype_of_the_parameters():
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), NEURON)
    optimizer = optax.sgd(1e3)
    step = irnn.make_train_step(
        irnn.squared_error, optimizer, solver=CHEAP, guard=irnn.Guard(every=1)
    )
    start = irnn.TrainState.create(single, optimizer)
    batch = (DRIVE[None].astype(np.float32), jnp.ones((1, 1), np.float32))
    state, metrics = step(start, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.net, state.guard))} == {
        np.dtype(np.float32)
    }
    assert metrics.update_scale.dtype == jnp.float32
    assert jax.tree.structure(state) == jax.tree.structure(start)


def test_a_parametrised_net_goes_back_to_its_free_parameters():
    params = irnn.init(jax.random.key(1), (1, 1), parametrization=irnn.Symmetric())
    push = jax.tree.map(lambda leaf: 3 * jnp.ones_like(leaf), params)
    optimizer = pushing(push, 1)
    step = irnn.make_train_step(
        irnn.squared_error, optimizer, solver=CHEAP, guard=irnn.Guard(every=1)
    )
    start = irnn.TrainState.create(params, optimizer)
    target = irnn.apply(params, NEURON_BATCH[0]) + 0.01
    state, metrics = step(start, (NEURON_BATCH[0], target))
    assert bool(metrics.rejected)
    assert type(state.net) is type(params)
    assert_equal(state.net, params)
