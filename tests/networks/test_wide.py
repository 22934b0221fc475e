"""Wide networks and large batches: iterations and chunks against one direct solve."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import irnn_jax as irnn
from irnn_jax.iterations.acceleration import Acceleration
from irnn_jax.networks import dense_linearisation, dense_problem
from irnn_jax.networks.dense_problem import DenseProblem
from tests.problems import (
    NETWORKS,
    inputs,
    network,
    reference_equilibrium,
    relative_error,
    some_sigmoid,
)

WIDE = network((3, 12, 4), scale=0.6)
X = inputs(WIDE, batch=5)


def _gradients(net, x, **options):
    def loss(net, x):
        result = irnn.equilibrium(net, x, **options)
        return jnp.sum(jnp.sin(result.activities[-1])), result

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(net, x)


@pytest.fixture
def _iterative(monkeypatch):
    """Systems of more than three unknowns are solved without a factorisation."""
    monkeypatch.setattr(dense_problem, "DIRECT_UP_TO", 3)
    monkeypatch.setattr(dense_linearisation, "DIRECT_UP_TO", 3)
    monkeypatch.setattr(dense_linearisation, "BLOCKS_UP_TO", 3)
    jax.clear_caches()
    yield
    jax.clear_caches()


# The default is `Exponential`, and then `PseudoTransient`.
@pytest.mark.parametrize(
    "solver",
    [
        irnn.Auto(),
        irnn.NewtonKrylov(),
        pytest.param(irnn.PseudoTransient(), marks=pytest.mark.slow),
        pytest.param(irnn.Exponential(), marks=pytest.mark.slow),
        pytest.param(irnn.Anderson(), marks=pytest.mark.slow),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_products_alone_find_the_equilibrium_and_its_gradient(request, solver):
    expected, reference = _gradients(WIDE, X)
    request.getfixturevalue("_iterative")
    actual, result = _gradients(WIDE, X, solver=solver)
    assert np.all(result.converged)
    for a, b in zip(result.activities, reference.activities, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
    assert relative_error(actual, expected) < 1e-9


@pytest.mark.slow
@pytest.mark.usefixtures("_iterative")
def test_products_alone_for_networks_side_by_side():
    over_nets = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), WIDE)
    together, _ = jax.vmap(lambda net: _gradients(net, X))(over_nets)
    alone, _ = _gradients(jax.tree.map(lambda leaf: leaf[1], over_nets), X)
    assert relative_error(jax.tree.map(lambda leaf: leaf[1], together), alone) < 1e-9


def test_an_adjoint_that_the_iteration_does_not_find_is_solved_directly(request, monkeypatch):
    # W = -9 with f' = 1/4: D A = -2.25, where no power series converges, and Anderson gets a step.
    layer = irnn.Layer(feedforward=jnp.eye(4), lateral=-9 * jnp.eye(4), bias=jnp.full(4, 4.5))
    net = irnn.Network(layers=(layer,))
    x = 0.1 * inputs(net, batch=3)
    expected, _ = _gradients(net, x)
    request.getfixturevalue("_iterative")
    monkeypatch.setattr(
        dense_linearisation, "Acceleration", lambda max_steps: Acceleration(max_steps=1)
    )
    actual, _ = _gradients(net, x)
    assert relative_error(actual, expected) < 1e-9


@pytest.mark.parametrize("mixed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_chunks_give_what_one_batch_gives(mixed):
    # Strong weights: the slowest of the samples takes several times as long as most.
    net = network((2, 2, 1), scale=6.0)
    x = 3 * inputs(net, batch=150)
    solver, chunked = irnn.PseudoTransient(), irnn.InChunks(width=16, first_steps=7)
    if mixed:
        solver, chunked = irnn.MixedPrecision(solver=solver), irnn.MixedPrecision(solver=chunked)
    together = irnn.equilibrium(net, x, solver=solver)
    parts = jax.vmap(lambda net: irnn.equilibrium(net, x, solver=chunked))(
        jax.tree.map(lambda leaf: leaf[None], net)
    )
    assert np.max(together.num_steps) > 7 > np.min(together.num_steps)
    np.testing.assert_array_equal(parts.num_steps[0], together.num_steps)
    np.testing.assert_array_equal(parts.status[0], together.status)
    for a, b in zip(parts.activities, together.activities, strict=True):
        np.testing.assert_allclose(a[0], b, rtol=0, atol=1e-14)
    expected, _ = _gradients(net, x, solver=solver)
    actual, _ = _gradients(net, x, solver=chunked)
    assert relative_error(actual, expected) < 1e-12


def test_the_default_is_chosen_by_size():
    def chosen(neurons, samples):
        matrix = jnp.zeros((neurons, neurons, 1))
        y = jnp.zeros((neurons, samples))
        system = DenseProblem(matrix=matrix, drive=y, activation=jax.nn.sigmoid, sizes=(neurons,))
        return irnn.Auto(tolerance=1e-9).choose(system, y)

    continuation = irnn.PseudoTransient(tolerance=1e-9)
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    in_chunks = irnn.InChunks(solver=continuation) if alone else continuation
    mixed = irnn.MixedPrecision(solver=in_chunks)
    assert chosen(24, 72) == continuation
    assert chosen(7, 10_000) == mixed
    assert chosen(24, 10_000) == mixed
    explicit = irnn.Exponential(tolerance=1e-9)
    assert chosen(25, 72) == irnn.Cascade(solvers=(explicit, continuation))
    assert chosen(25, 10_000) == irnn.Cascade(solvers=(explicit, continuation))

    # Inside `shard_map` a device knows that its samples are its own.
    mesh = jax.make_mesh((1,), ("runs",), devices=jax.devices()[:1])
    inside = []

    def look(x):
        inside.append(chosen(7, 10_000))
        return x

    jax.shard_map(look, mesh=mesh, in_specs=P(), out_specs=P())(jnp.zeros(1))
    on_cpu = jax.default_backend() == "cpu"
    within = irnn.InChunks(solver=continuation) if on_cpu else continuation
    assert inside == [irnn.MixedPrecision(solver=within)]


def test_exponential_steps_end_where_the_flow_does():
    # Centred, at a gain of 8: about half of the flows rest, many of them next to other equilibria.
    rng = np.random.default_rng(5)
    matrices = rng.normal(size=(300, 5, 5)) * 8 / np.sqrt(5)
    drives = rng.normal(size=(300, 5)) - matrices.sum(axis=-1) / 2

    def solve(solver):
        def one(matrix, drive):
            layer = irnn.Layer(feedforward=jnp.zeros((5, 1)), lateral=matrix, bias=drive)
            net, at = irnn.Network(layers=(layer,)), jnp.zeros(1)
            return irnn.equilibrium(net, at, solver=solver, check_stability=False)

        return jax.vmap(one)(matrices, drives)

    flow = solve(irnn.Flow())

    def share_of_the_flows(solver):
        result = solve(solver)
        both = flow.converged & result.converged
        assert np.sum(both) > 130
        there = jnp.max(jnp.abs(result.activities[0] - flow.activities[0]), axis=-1) < 1e-6
        return np.mean(there[both])

    assert share_of_the_flows(irnn.Exponential()) > 0.98
    assert share_of_the_flows(irnn.Anderson()) < 0.95


def test_the_default_solves_what_explicit_steps_cannot():
    # W = -40: explicit steps are kept short by the stiffness, and few of them do not arrive.
    layer = irnn.Layer(feedforward=jnp.eye(4), lateral=-40 * jnp.eye(4), bias=jnp.full(4, 20.5))
    net = irnn.Network(layers=(layer,))
    x = 0.1 * inputs(net, batch=3)
    expected = irnn.equilibrium(net, x)
    alone = irnn.equilibrium(net, x, solver=irnn.Exponential(max_steps=5))
    assert not np.any(alone.converged)
    wide = irnn.Cascade(solvers=(irnn.Exponential(max_steps=5), irnn.PseudoTransient()))
    result = irnn.equilibrium(net, x, solver=wide)
    assert np.all(result.converged)
    np.testing.assert_allclose(result.activities[0], expected.activities[0], rtol=0, atol=1e-12)


def test_mixed_precision_ends_in_float64_and_solves_again_what_float32_cannot():
    net = NETWORKS["two_layers"]
    x = inputs(net, batch=4)
    result = irnn.equilibrium(net, x, solver=irnn.MixedPrecision())
    for a, b in zip(result.activities, reference_equilibrium(net, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
    # A weight of 1e39 is infinite in float32, and infinity times Y = 0 is not a number.
    last = net.layers[-1]
    huge = net._replace(
        layers=(net.layers[0], last._replace(feedforward=1e39 * jnp.abs(last.feedforward)))
    )
    result = irnn.equilibrium(huge, x, solver=irnn.MixedPrecision())
    expected = irnn.equilibrium(huge, x)
    assert np.all(expected.converged)
    np.testing.assert_array_equal(result.status, expected.status)
    for a, b in zip(result.activities, expected.activities, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


def test_what_does_not_rest_in_float32_is_solved_in_float64_from_the_start():
    net = NETWORKS["two_layers"]
    x = inputs(net, batch=4)
    few = irnn.PseudoTransient(max_steps=2)
    solve = functools.partial(irnn.equilibrium, net, x, activation=some_sigmoid)
    expected = solve(solver=few)
    result = solve(solver=irnn.MixedPrecision(solver=few))
    assert not np.any(expected.converged)
    np.testing.assert_array_equal(result.status, expected.status)
    np.testing.assert_array_equal(result.num_steps, 2 + expected.num_steps)
    for a, b in zip(result.activities, expected.activities, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("hidden", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_where_all_contract_nothing_is_followed_in_float32_first(hidden):
    net = network((4, hidden, 2), scale=0.5 / np.sqrt(hidden))
    x = inputs(net, batch=100)
    plain = irnn.equilibrium(net, x, solver=irnn.InChunks())
    mixed = irnn.equilibrium(net, x, solver=irnn.MixedPrecision(solver=irnn.InChunks()))
    np.testing.assert_array_equal(mixed.num_steps, plain.num_steps)
    for a, b in zip(mixed.activities, plain.activities, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


def test_solvers_inside_solvers_are_checked():
    with pytest.raises(ValueError, match="max_steps must be positive"):
        irnn.MixedPrecision(solver=irnn.PseudoTransient(max_steps=0))
    with pytest.raises(ValueError, match="solver must be a PseudoTransient, got Pic"):
        irnn.InChunks(solver=irnn.Picard())
    with pytest.raises(ValueError, match="must be a PseudoTransient or an InChunks, got Pic"):
        irnn.MixedPrecision(solver=irnn.Picard())
    with pytest.raises(ValueError, match="width must be positive"):
        irnn.InChunks(width=0)


def test_the_gradient_of_a_wide_network_scales_with_the_loss():
    """In float32 too, whose range the squares of a small cotangent leave."""
    net = network((30, 250, 4), scale=1 / 16)
    net, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (net, inputs(net, 100)))

    @jax.jit
    def gradient(scale):
        return jax.grad(lambda net: scale * jnp.sum(jnp.sin(irnn.apply(net, x))))(net)

    expected = gradient(jnp.float32(1))
    for scale in (1e-3, 1e-12, 1e-25, 1e12):
        scaled = gradient(jnp.float32(scale))
        for a, b in zip(jax.tree.leaves(scaled), jax.tree.leaves(expected), strict=True):
            # The sums of gradients over the batch are in range too.
            np.testing.assert_allclose(a / scale, b, rtol=1e-4, atol=1e-4 * np.max(np.abs(b)))
