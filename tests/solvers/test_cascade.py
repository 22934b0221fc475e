"""A cascade is its first solver, and for the samples on which that fails the ones after it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax.xla import chunks
from irnn_jax.xla.tuning import FEW
from tests.problems import NETWORKS, inputs, oscillator, scalar_neuron, some_sigmoid

# Steps of one are stable where 30 y (1 - y) < 1: for the outer two, and not for the middle one.
W, Y = -30.0, np.array([0.02, 0.3, 0.01])
NET, _, _ = scalar_neuron(W, 0.3)
X = jnp.stack([scalar_neuron(W, y)[1] for y in Y])
SLOPES = np.array([scalar_neuron(W, y)[2] for y in Y])
MIDDLE, OTHERS = 1, np.array([0, 2])

FIRST = irnn.Picard(max_steps=60)
# Short steps are stable in the middle: |1 - 0.05 7.3| = 0.64, and 0.92 and 0.94 for the others.
SECOND = irnn.Euler(step_size=0.05)


def _cell(params: Any, y: Any, x: Any) -> Any:
    return jax.nn.sigmoid(params * y + x)


@functools.partial(jax.jit, static_argnames=("entry", "solver", "gradient"))
def _everything(
    entry: str, x: Any, *, solver: Any, gradient: Any = irnn.Exact()
) -> tuple[irnn.Equilibrium, Any, Any]:
    """The equilibria of three samples, and the gradients of their sum in W and in x."""

    def solve(w: Any, x: Any) -> irnn.Equilibrium:
        net = irnn.Network(layers=(NET.layers[0]._replace(lateral=w * jnp.ones((1, 1))),))
        return irnn.equilibrium(net, x, solver=solver, gradient=gradient)

    def solve_cell(w: Any, x: Any) -> irnn.Equilibrium:
        return irnn.fixed_point(_cell, w, x, jnp.zeros(1), solver=solver, gradient=gradient)

    entries = {
        "batch": solve,
        "vmap": jax.vmap(solve),
        "cell": jax.vmap(solve_cell),
    }

    def loss(w: Any, x: Any) -> Any:
        result = entries[entry](w, x)
        return sum(leaf.sum() for leaf in jax.tree.leaves(result.activities)), result

    w = jnp.array(W) if entry == "batch" else jnp.full(3, W)
    (d_w, d_x), result = jax.grad(loss, argnums=(0, 1), has_aux=True)(w, x)
    return result, d_w, d_x


def _activities(result: irnn.Equilibrium) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result.activities)])


# --- the samples that fail ----------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["batch", "vmap", "cell"])
def test_only_what_fails_is_solved_again(entry):
    first, *_ = _everything(entry, X, solver=FIRST)
    np.testing.assert_array_equal(first.converged, [True, False, True])
    second, d_w_second, d_x_second = _everything(entry, X, solver=SECOND)
    result, d_w, d_x = _everything(entry, X, solver=irnn.Cascade(solvers=(FIRST, SECOND)))
    np.testing.assert_array_equal(result.status, [irnn.Status.CONVERGED] * 3)
    # Bit for bit the first solver's, and not those of the second.
    np.testing.assert_array_equal(_activities(result)[OTHERS], _activities(first)[OTHERS])
    np.testing.assert_array_equal(result.num_steps[OTHERS], first.num_steps[OTHERS])
    np.testing.assert_array_equal(result.residual[OTHERS], first.residual[OTHERS])
    assert int(result.num_steps[MIDDLE]) == 60 + int(second.num_steps[MIDDLE])
    np.testing.assert_allclose(_activities(result), Y, rtol=0, atol=4e-12)
    np.testing.assert_allclose(
        _activities(result)[MIDDLE], _activities(second)[MIDDLE], rtol=0, atol=1e-15
    )
    np.testing.assert_allclose(d_x[:, 0], SLOPES, rtol=1e-9)
    # dy/dW = y dy/dx, which is the second solver's own gradient.
    np.testing.assert_allclose(np.sum(d_w), SLOPES @ Y, rtol=1e-9)
    np.testing.assert_allclose(d_w, d_w_second, rtol=1e-9)
    np.testing.assert_allclose(d_x[MIDDLE], d_x_second[MIDDLE], rtol=1e-12)


@pytest.mark.parametrize("entry", ["batch", "cell"])
def test_unrolled_through_the_solver_that_converged(entry):
    solver = irnn.Cascade(solvers=(FIRST, SECOND))
    result, d_w, d_x = _everything(entry, X, solver=solver, gradient=irnn.Unrolled())
    exact, *_ = _everything(entry, X, solver=solver)
    assert np.all(result.converged)
    np.testing.assert_array_equal(result.num_steps, exact.num_steps)
    np.testing.assert_allclose(_activities(result), Y, rtol=0, atol=4e-12)
    np.testing.assert_allclose(d_x[:, 0], SLOPES, rtol=1e-8)
    np.testing.assert_allclose(np.sum(d_w), SLOPES @ Y, rtol=1e-8)


def test_a_first_solver_that_solves_nothing_leaves_all_to_the_second():
    newton = irnn.PseudoTransient()
    hopeless = irnn.PseudoTransient(max_steps=1)
    net = NETWORKS["two_layers"]
    x = inputs(net)
    solve = functools.partial(irnn.equilibrium, net, x, activation=some_sigmoid)
    first = solve(solver=hopeless)
    assert not np.any(first.converged)
    second = solve()
    result = solve(solver=irnn.Cascade(solvers=(hopeless, newton)))
    assert np.all(result.converged)
    np.testing.assert_array_equal(result.num_steps, 1 + second.num_steps)
    for actual, expected in zip(result.activities, second.activities, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-14)


def test_what_no_solver_solves_is_flagged_with_all_its_steps():
    net = oscillator()
    x = jnp.array([[40.0, 40.0], [0.0, 0.0], [np.nan, 0.0]])
    solvers = (irnn.Picard(max_steps=30), irnn.Flow(max_time=30.0))
    first, second = (irnn.equilibrium(net, x, solver=solver) for solver in solvers)
    result = irnn.equilibrium(net, x, solver=irnn.Cascade(solvers=solvers))
    expected = [irnn.Status.CONVERGED, irnn.Status.LIMIT_CYCLE, irnn.Status.NON_FINITE]
    np.testing.assert_array_equal(result.status, expected)
    np.testing.assert_array_equal(result.converged, [True, False, False])
    assert int(result.num_steps[0]) == int(first.num_steps[0])
    assert int(result.num_steps[1]) == int(first.num_steps[1]) + int(second.num_steps[1])
    # The last solver has the last word on where it stopped.
    np.testing.assert_allclose(result.residual[1], second.residual[1], rtol=1e-6)


# --- the samples that do not --------------------------------------------------------------------

ENTERED = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched:
    """The second solver, and says when it runs, and for how many samples."""

    tolerance: float | None = None

    def solve(self, problem: Any, y0: Any, loop: Any) -> Any:
        jax.debug.callback(lambda y: ENTERED.append(y[0].size), y0)
        return SECOND.solve(problem, y0, loop)


@pytest.mark.parametrize("entry", ["batch", "vmap", "cell"])
def test_later_solvers_do_not_run_where_the_first_converges(entry):
    solver = irnn.Cascade(solvers=(FIRST, Watched()))
    ENTERED.clear()
    # In the place of the middle sample a second one that Picard can solve.
    result, *_ = _everything(entry, X.at[MIDDLE].set(X[0]), solver=solver)
    assert np.all(result.converged)
    jax.effects_barrier()
    assert not ENTERED
    result, *_ = _everything(entry, X, solver=solver)
    assert np.all(result.converged)
    jax.effects_barrier()
    assert ENTERED


def test_of_many_samples_those_that_fail_are_solved_without_the_others(monkeypatch):
    monkeypatch.setattr(chunks, "on_one_cpu", lambda: True)
    solver = irnn.Cascade(solvers=(FIRST, Watched()))
    many = jnp.tile(X[0], (100, 1)).at[jnp.array([3, 57, 99])].set(X[MIDDLE])
    few, *_ = _everything("batch", X, solver=solver)
    ENTERED.clear()
    result = irnn.equilibrium(NET, many, solver=solver)
    jax.effects_barrier()
    assert ENTERED == [FEW]
    here = np.where(many[:, 0] == X[0, 0], 0, MIDDLE)
    np.testing.assert_array_equal(result.converged, True)
    np.testing.assert_array_equal(result.num_steps, few.num_steps[here])
    np.testing.assert_allclose(_activities(result), Y[here], rtol=0, atol=4e-12)


def test_those_that_fail_are_solved_together_for_all_networks(monkeypatch):
    monkeypatch.setattr(chunks, "on_one_cpu", lambda: True)
    # Of more neurons than networks side by side have.
    nets = jax.vmap(lambda key: irnn.init(key, (3, 24, 2)))(jax.random.split(jax.random.key(0), 4))
    first_layer, last = nets.layers
    lateral = jnp.asarray(first_layer.lateral).at[2].set(-20 * jnp.eye(24))
    nets = nets._replace(layers=(first_layer._replace(lateral=lateral), last))
    x = jax.random.normal(jax.random.key(1), (20, 3))

    def solve(solver):
        return jax.vmap(lambda net: irnn.equilibrium(net, x, solver=solver))(nets)

    first = solve(FIRST)
    np.testing.assert_array_equal(np.all(first.converged, axis=1), [True, True, False, True])
    ENTERED.clear()
    result = solve(irnn.Cascade(solvers=(FIRST, Watched())))
    jax.effects_barrier()
    assert ENTERED == [FEW]
    np.testing.assert_array_equal(result.converged, True)
    expected = solve(SECOND)
    for a, b in zip(result.activities, expected.activities, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    steps = np.where(first.converged, 0, expected.num_steps)
    np.testing.assert_array_equal(result.num_steps, first.num_steps + steps)


def test_the_default_cascade_solves_what_its_first_solver_does():
    net = NETWORKS["one_layer"]
    x = inputs(net)
    first = irnn.equilibrium(net, x)
    result = irnn.equilibrium(net, x, solver=irnn.Cascade())
    np.testing.assert_array_equal(result.num_steps, first.num_steps)
    np.testing.assert_array_equal(result.status, first.status)
    assert np.all(result.converged)
    np.testing.assert_allclose(result.activities[0], first.activities[0], rtol=0, atol=1e-15)


def test_training_through_a_cascade():
    optimizer, target = irnn.adam(0.01), jnp.full((3, 1), 0.3)
    cascade = irnn.Cascade(solvers=(FIRST, SECOND))
    nets = []
    for solver in (cascade, SECOND):
        step = irnn.make_train_step(irnn.squared_error, optimizer, solver=solver, guard=None)
        state, metrics = step(irnn.TrainState.create(NET, optimizer), (X, target))
        assert float(metrics.converged) == 1
        nets.append(state.net)
    for a, b in zip(*map(jax.tree.leaves, nets), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


# --- what a cascade is --------------------------------------------------------------------------


@pytest.mark.usefixtures("without_runtime_types")
def test_a_cascade_is_a_value():
    assert irnn.Cascade() == irnn.Cascade()
    assert hash(irnn.Cascade()) == hash(irnn.Cascade())
    given: Any = [FIRST, SECOND]
    listed = irnn.Cascade(solvers=given)
    assert listed == irnn.Cascade(solvers=(FIRST, SECOND))
    assert listed.solvers == (FIRST, SECOND)
    assert hash(listed) == hash(irnn.Cascade(solvers=(FIRST, SECOND)))
    assert listed != irnn.Cascade(solvers=(SECOND, FIRST))
    given.append(FIRST)
    assert len(listed.solvers) == 2


def test_the_first_solvers_tolerance_is_the_cascades():
    loose = irnn.Picard(max_steps=60, tolerance=1e-3)
    assert irnn.Cascade(solvers=(loose, SECOND)).tolerance == 1e-3
    assert irnn.Cascade().tolerance is None
    solver = irnn.Cascade(solvers=(loose, Watched()))
    ENTERED.clear()
    result, *_ = _everything("batch", X.at[MIDDLE].set(X[0]), solver=solver)
    jax.effects_barrier()
    assert not ENTERED
    assert np.all(result.converged)
    assert np.all(result.residual > 1e-10)


BAD_SOLVERS = [
    ((), "solvers must be a tuple of solvers"),
    ((FIRST, irnn.PseudoTransient), "solvers must be solvers, got <class .*PseudoTransient'>"),
    ((irnn.Exact(),), r"solvers must be solvers, got Exact\("),
    ((FIRST, None), "solvers must be solvers, got None"),
    (("Picard",), "solvers must be solvers, got 'Picard'"),
]


@pytest.mark.usefixtures("without_runtime_types")
@pytest.mark.parametrize(("solvers", "words"), BAD_SOLVERS)
def test_solvers_are_checked_when_built(solvers, words):
    with pytest.raises(ValueError, match=words):
        irnn.Cascade(solvers=solvers)
