"""tau dY/dt = g(Y) - Y: which equilibrium is reached, whether it stays, and what tau leaves."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import expit

import irnn_jax as irnn
from irnn_jax.networks.time_constants import rates_of_layers
from tests.problems import NETWORKS, inputs

NOTHING = jnp.zeros(1)
BATCH = 250  # enough for float32, and for chunks


def _pair(n: int, weights: Any, bias: Any) -> tuple[irnn.Network, np.ndarray, np.ndarray]:
    """Two populations of n like neurons, each a layer, with the mean weights between them; A, b."""
    A: Any = np.kron(np.asarray(weights, float), np.ones((n, n)) / n)
    b: Any = np.repeat(np.asarray(bias, float), n)
    layers = (
        irnn.Layer(feedforward=jnp.ones((n, 1)), lateral=jnp.asarray(A[:n, :n]), bias=b[:n]),
        irnn.Layer(feedforward=jnp.asarray(A[n:, :n]), lateral=jnp.asarray(A[n:, n:]), bias=b[n:]),
    )
    layers = jax.tree.map(jnp.asarray, layers)
    return irnn.Network(layers=layers, feedback=(jnp.asarray(A[:n, n:]),)), A, b


def _excitatory_inhibitory(n: int) -> Any:
    return _pair(n, [[16, -12], [15, -3]], [-1.5, -4])


def _competitors(n: int) -> Any:
    """The first one has the larger drive, and wins if it is not too slow."""
    return _pair(n, [[6, -10], [-10, 6]], [0.6, 0.2])


def _flow(A: np.ndarray, b: np.ndarray, tau: np.ndarray, units: float = 300.0) -> np.ndarray:
    found = solve_ivp(
        lambda t, y: (expit(A @ y + b) - y) / tau,
        (0, units * tau.max()),
        np.zeros(len(b)),
        method="LSODA",
        rtol=1e-11,
        atol=1e-13,
    )
    return found.y[:, -1]


def _state(result: irnn.Equilibrium) -> np.ndarray:
    return np.concatenate([np.asarray(part) for part in result.activities], axis=-1)


# --- what tau decides ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 10])
def test_fast_inhibition_is_stable_and_slow_inhibition_is_not(n):
    net, A, b = _excitatory_inhibitory(n)

    @jax.jit
    def both(tau):
        constants = (1.0, tau)
        found = irnn.equilibrium(net, NOTHING, time_constants=constants)
        return found, irnn.stability(net, NOTHING, time_constants=constants)

    rest = _flow(A, b, np.repeat([1, 0.3], n))
    slope = expit(A @ rest + b) * expit(-A @ rest - b)
    for inhibitory, is_stable in ((0.3, True), (0.5, True), (2.0, False), (6.0, False)):
        tau = np.repeat([1, inhibitory], n)
        found, stability = both(inhibitory)
        moving = (slope[:, None] * A - np.eye(2 * n)) / tau[:, None]
        rate = -np.max(np.linalg.eigvals(moving).real) * tau.min()
        assert (rate > 0) == is_stable
        assert found.converged == is_stable
        assert stability.is_stable == is_stable
        end = _flow(A, b, tau)
        assert (np.max(np.abs(expit(A @ end + b) - end)) < 1e-6) == is_stable
        if is_stable:
            np.testing.assert_allclose(_state(found), rest, atol=1e-7)
            np.testing.assert_allclose(stability.rate, rate, rtol=1e-7)


@pytest.mark.parametrize("n", [1, 10])
def test_the_slower_one_loses(n):
    net, A, b = _competitors(n)
    ratios = np.array([1.0, 4.0, 0.25, 30.0, 300.0])

    def solve(ratio):
        constants = (ratio, jnp.ones(n))
        return irnn.equilibrium(net, NOTHING, time_constants=constants)

    found = jax.jit(jax.vmap(solve))(ratios)
    right = np.array([_flow(A, b, np.repeat([ratio, 1], n)) for ratio in ratios])
    np.testing.assert_array_equal(right[:, 0] > right[:, -1], ratios <= 1)
    assert np.all(found.converged)
    np.testing.assert_allclose(_state(found), right, atol=1e-8)


SOLVERS = {
    "flow": irnn.Flow(solver=diffrax.Kvaerno5()),
    "exponential": irnn.Exponential(),
    "euler": irnn.Euler(step_size=0.5),
    "mixed": irnn.MixedPrecision(),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_every_solver_that_follows_the_flow_follows_this_one(solver):
    net, A, b = _competitors(1)
    found = irnn.equilibrium(net, NOTHING, solver=solver, time_constants=(4, 1))
    assert found.converged
    np.testing.assert_allclose(_state(found), _flow(A, b, np.array([4.0, 1.0])), atol=1e-8)


def test_a_large_batch_is_solved_like_a_small_one():
    net, _, _ = _competitors(1)
    x = jnp.linspace(-0.5, 0.5, BATCH)[:, None]
    many = irnn.equilibrium(net, x, time_constants=(3.0, 1.0))
    few = irnn.equilibrium(net, x[::50], time_constants=(3.0, 1.0))
    assert np.all(many.converged)
    np.testing.assert_allclose(_state(many)[::50], _state(few), atol=1e-10)


@pytest.mark.parametrize("ratio", [1e2, 1e5])
def test_what_counts_as_converged_is_the_residual_of_the_network_itself(ratio):
    net, A, b = _competitors(1)
    net = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), net)
    found = irnn.equilibrium(net, jnp.zeros(1, jnp.float32), time_constants=(ratio, 1.0))
    y = _state(found).astype(float)
    assert found.residual.dtype == jnp.float32
    residual = np.max(np.abs(expit(A @ y + b) - y))
    np.testing.assert_allclose(found.residual, residual, atol=3e-7)
    assert found.converged
    assert residual < 6.4e-6


# --- what it does not ---------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_equilibrium_alone():
    net, x = NETWORKS["two_layers"], inputs(NETWORKS["two_layers"])
    constants = (jnp.array([1.0, 3.0]), 0.4)

    def loss(net, x, constants):
        return jnp.sum(irnn.apply(net, x, time_constants=constants) ** 2)

    *found, of_constants = jax.grad(loss, argnums=(0, 1, 2))(net, x, constants)
    right = jax.grad(lambda net, x: jnp.sum(irnn.apply(net, x) ** 2), argnums=(0, 1))(net, x)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    for leaf in jax.tree.leaves(of_constants):
        np.testing.assert_array_equal(leaf, 0)
    value, step = jax.jit(lambda x: loss(net, x, constants)), 1e-5 * jnp.eye(2)
    for i in range(2):
        moved = jnp.zeros_like(x).at[1].set(step[i])
        difference = (value(x + moved) - value(x - moved)) / 2e-5
        np.testing.assert_allclose(found[1][1, i], difference, atol=1e-9)


@pytest.mark.parametrize("equal", [(2, 2.0), (np.ones(2), 1), [0.1, np.full(1, 0.1)]])
def test_equal_time_constants_are_none(equal):
    assert rates_of_layers(equal, (2, 1)) is None
    net, x = NETWORKS["two_layers"], inputs(NETWORKS["two_layers"])
    found, right = irnn.equilibrium(net, x, time_constants=equal), irnn.equilibrium(net, x)
    np.testing.assert_array_equal(_state(found), _state(right))


def test_a_training_step_finds_the_equilibria_of_the_slowed_flow():
    net, A, b = _competitors(1)
    optimizer = irnn.adam(0.01)
    step = irnn.make_train_step(irnn.squared_error, optimizer, time_constants=(4.0, 1.0))
    data = (NOTHING[None], jnp.zeros((1, 1)))
    _, metrics = step(irnn.TrainState.create(net, optimizer), data)
    right = _flow(A, b, np.array([4.0, 1.0]))[1] ** 2
    np.testing.assert_allclose(metrics.loss, right, atol=1e-8)
    assert right > 0.9


# --- a cell -------------------------------------------------------------------------------------


def _cell(weights: Any, y: Any, x: Any) -> Any:
    """The competitors, as a cell of one sample or of many."""
    first = 6 * y["first"] - 10 * y["second"] + 0.6
    second = weights * y["first"] + 6 * y["second"] + 0.2 + x
    return {"first": jax.nn.sigmoid(first), "second": jax.nn.sigmoid(second)}


def _solve_cell(weights: Any, x: Any, slow: Any, **options: Any) -> irnn.Equilibrium:
    start = {"first": jnp.zeros_like(x), "second": jnp.zeros_like(x)}
    constants = {"first": slow, "second": 1.0}
    return irnn.fixed_point(_cell, weights, x, start, time_constants=constants, **options)


X, SLOW = jnp.array([[0.0], [0.05], [0.0]]), jnp.array([[4.0], [10.0], [0.5]])


def _cells_right() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, the drives and the equilibria of three samples with these inputs."""
    _, A, b = _competitors(1)
    drives = b + np.concatenate([np.zeros((3, 1)), np.asarray(X)], axis=1)
    taus = np.concatenate([np.asarray(SLOW), np.ones((3, 1))], axis=1)
    pairs = zip(drives, taus, strict=True)
    return A, drives, np.array([_flow(A, of, tau) for of, tau in pairs])


def _assert_right(found: irnn.Equilibrium, right: np.ndarray) -> None:
    assert np.all(found.converged)
    np.testing.assert_allclose(found.activities["first"], right[:, :1], atol=1e-8)
    np.testing.assert_allclose(found.activities["second"], right[:, 1:], atol=1e-8)


def test_a_batch_of_cells_has_time_constants_too():
    A, drives, right = _cells_right()

    def loss(weights, slow):
        found = _solve_cell(weights, X, slow, batched=True)
        return jnp.sum(found.activities["first"]), found

    (of_weights, of_slow), found = jax.grad(loss, argnums=(0, 1), has_aux=True)(-10.0, SLOW)
    _assert_right(found, right)
    np.testing.assert_array_equal(of_slow, 0)
    expected = 0.0
    for y, b in zip(right, drives, strict=True):
        slope = expit(A @ y + b) * expit(-A @ y - b)
        w = np.linalg.solve(np.eye(2) - (slope[:, None] * A).T, [1, 0])
        expected += w[1] * slope[1] * y[0]
    np.testing.assert_allclose(of_weights, expected, rtol=1e-7)


def test_cells_under_vmap_have_time_constants_of_their_own():
    found = jax.vmap(lambda x, slow: _solve_cell(-10.0, x, slow))(X, SLOW)
    _assert_right(found, _cells_right()[2])


# --- errors -------------------------------------------------------------------------------------

WRONG = {
    "one_entry": ((1.0,), r"time_constants has 1 entry, but the network has 2 layers"),
    "three": ((1, 1, 1), r"time_constants has 3 entries, but the network has 2 layers"),
    "shape": ((np.ones(3), 1), r"time_constants\[0\] has shape \(3,\), but layer 0 takes one .*2,"),
    "zero": ((1, 0.0), r"time_constants\[1\] must be positive and finite, got 0.0"),
    "negative": ((np.array([1, -2]), 1), r"time_constants\[0\] must be positive"),
    "infinite": ((np.inf, 1), r"time_constants\[0\] must be positive and finite"),
    "number": (2.0, r"time_constants must be a tuple with one entry for each layer, got 2.0"),
    "words": (("fast", 1), r"time_constants\[0\] must be a positive number or an array"),
}


@pytest.mark.parametrize(("constants", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.usefixtures("without_runtime_types")
def test_what_is_no_time_constant_is_refused(constants, words):
    net = NETWORKS["two_layers"]
    with pytest.raises(ValueError, match=words):
        irnn.equilibrium(net, inputs(net), time_constants=constants)


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"first": 1.0}, "time_constants must be a pytree like y0"),
        ({"first": jnp.ones(3), "second": 1.0}, r"has shape \(3,\), but must broadcast with y0's"),
        ({"first": 1.0, "second": -1.0}, r"time_constants\['second'\] must be positive"),
    ],
)
def test_what_is_no_time_constant_of_a_cell_is_refused(constants, words):
    start = {"first": jnp.zeros(2), "second": jnp.zeros(2)}
    with pytest.raises(ValueError, match=words):
        irnn.fixed_point(_cell, -10.0, jnp.zeros(2), start, time_constants=constants)


def test_traced_numbers_that_are_not_positive_fail_without_an_answer():
    net, _, _ = _competitors(1)
    solve = jax.jit(lambda tau: irnn.equilibrium(net, NOTHING, time_constants=(tau, 1.0)))
    found = solve(-2.0)
    assert not found.converged
    assert found.status == irnn.Status.NON_FINITE
