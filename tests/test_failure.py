"""What goes wrong in one sample is flagged there, and changes nothing anywhere else."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit

import irnn_jax as irnn
from tests.problems import (
    NETWORKS,
    connection_matrix,
    inputs,
    oscillator,
    relative_error,
    targets,
)

NET = NETWORKS["two_layers"]
X, TARGET = inputs(NET), targets(NET)
NOT_FINITE = [np.nan, np.inf, -np.inf]


@functools.partial(jax.jit, static_argnames=("solver", "gradient"))
def _everything(net: Any, x: Any, weight: Any, *, solver: Any, gradient: Any) -> Any:
    """The equilibrium, and the gradient of a weighted sum of its outputs in the net and in x."""

    def loss(net, x):
        result = irnn.equilibrium(net, x, solver=solver, gradient=gradient)
        return weight @ result.activities[-1].sum(axis=-1), result

    gradients, result = jax.grad(loss, argnums=(0, 1), has_aux=True)(net, x)
    return result, *gradients


def _assert_equal(actual: Any, expected: Any) -> None:
    """Bit for bit, but for the sign of zero."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def _all_zero(tree: Any) -> bool:
    return all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(tree))


def _all_finite(tree: Any) -> bool:
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))


# --- one bad sample -----------------------------------------------------------------------------

MODES = {
    "exact": {"solver": irnn.PseudoTransient(), "gradient": irnn.Exact()},
    "semi": {"solver": irnn.Picard(), "gradient": irnn.SemiGradient()},
    "unrolled": {"solver": irnn.Picard(), "gradient": irnn.Unrolled()},
}


def _assert_left_out(net: irnn.Network, x: Any, healthy_x: Any, bad: int, mode: str) -> None:
    """Sample `bad` of x fails; replaced, and without weight in the loss, all else is the same."""
    others = np.arange(len(x)) != bad
    ones = jnp.ones(len(x))
    result, d_net, d_x = _everything(net, x, ones, **MODES[mode])
    assert not result.converged[bad]
    assert result.residual[bad] > 1e-6
    assert _all_zero(d_x[bad])
    assert np.all(result.converged[others])
    healthy, expected_d_net, expected_d_x = _everything(
        net, healthy_x, ones.at[bad].set(0), **MODES[mode]
    )
    assert np.all(healthy.converged)
    rows = functools.partial(jax.tree.map, lambda leaf: leaf[others])
    _assert_equal(rows(result), rows(healthy))
    _assert_equal(rows(d_x), rows(expected_d_x))
    _assert_equal(d_net, expected_d_net)
    assert not _all_zero(d_net)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("mode", MODES)
def test_an_input_that_is_not_finite_is_left_out(mode, value):
    x = X.at[1, 0].set(value)
    _assert_left_out(NET, x, X, 1, mode)
    result, *_ = _everything(NET, x, jnp.ones(3), **MODES[mode])
    assert result.residual[1] == np.inf


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_in_a_limit_cycle_is_left_out(mode):
    x = jnp.array([[40.0, 40.0], [0.0, 0.0], [-40.0, 40.0]])  # the outer two are driven to rest
    _assert_left_out(oscillator(), x, x.at[1].set(jnp.array([40.0, -40.0])), 1, mode)


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_an_enormous_input_saturates(value):
    result, d_net, d_x = _everything(NET, X.at[1, 0].set(value), jnp.ones(3), **MODES["exact"])
    assert np.all(result.converged)
    on = NET.layers[0].feedforward[:, 0] * value > 0
    np.testing.assert_allclose(result.activities[0][1], on, rtol=0, atol=2e-12)  # the tolerance
    assert _all_finite((d_net, d_x))
    assert _all_zero(d_x[1])


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("leaf", range(len(jax.tree.leaves(NET))))
def test_a_weight_that_is_not_finite_fails_every_sample(leaf, value):
    leaves, treedef = jax.tree.flatten(NET)
    leaves[leaf] = leaves[leaf].at[(0,) * leaves[leaf].ndim].set(value)
    net = jax.tree.unflatten(treedef, leaves)
    result, d_net, _ = _everything(net, X, jnp.ones(3), **MODES["exact"])
    # An infinite weight may also saturate its neuron, which then rests.
    if np.isnan(value):
        assert not np.any(result.converged)
        assert _all_zero(d_net)
    assert _all_finite(d_net)
    assert _all_finite(result.activities)
    assert not np.any(np.isnan(result.residual))


def test_cells_that_are_not_finite_are_flagged():
    def cell(params, y, x):
        return jax.nn.sigmoid(params * y + x)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def solve(params, x, y0):
        def loss(params, x):
            result = irnn.fixed_point(cell, params, x, y0)
            return result.activities.sum(), result

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    x = jnp.array([[0.5, 1.0], [np.nan, 1.0], [0.5, np.inf], [0.5, 1.0]])
    y0 = jnp.zeros((4, 2)).at[3, 0].set(np.nan)
    (d_params, d_x), result = solve(jnp.array(1.5), x, y0)
    np.testing.assert_array_equal(result.converged[:2], [True, False])
    assert result.residual[1] == np.inf
    assert _all_zero((d_params[1], d_x[1]))
    assert not _all_zero(d_params[0])
    # f(inf) = 1: an infinite drive of a sigmoid is an equilibrium for a cell that can take it.
    assert not result.converged[3]
    assert _all_zero((d_params[3], d_x[3]))
    # dy/dx = 1/(1/f' - 1.5), and the sample's own numbers are untouched by the others'.
    y = np.asarray(result.activities[0])
    np.testing.assert_allclose(expit(1.5 * y + x[0]), y, rtol=1e-12)
    np.testing.assert_allclose(d_x[0], 1 / (1 / (y * (1 - y)) - 1.5), rtol=1e-10)


def test_a_cell_that_is_not_finite_has_second_derivatives_of_zero():
    def cell(params, y, x):
        return jax.nn.sigmoid(params * y + x)

    @jax.jit
    @jax.vmap
    def curvature(x):
        def loss(params, x):
            return irnn.fixed_point(cell, params, x, jnp.zeros(2)).activities.sum()

        return jax.grad(lambda params: jax.grad(loss)(params, x))(1.5)

    curvatures = curvature(jnp.array([[0.5, 1.0], [np.nan, 1.0]]))
    assert curvatures[0] != 0
    assert curvatures[1] == 0


# --- training -----------------------------------------------------------------------------------

OPTIMIZER = irnn.adam(0.01)
STEP = irnn.make_train_step(irnn.squared_error, OPTIMIZER)
STATE = irnn.TrainState.create(NET, OPTIMIZER)
HEALTHY = jnp.array([0, 2])

BAD_BATCHES = {
    **{f"x={value}": (X.at[1, 0].set(value), TARGET) for value in NOT_FINITE},
    **{f"target={value}": (X, TARGET.at[1, 0].set(value)) for value in NOT_FINITE},
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_a_step_on_a_bad_sample_is_the_step_without_it(name):
    state, metrics = STEP(STATE, BAD_BATCHES[name])
    expected, healthy = STEP(STATE, (X[HEALTHY], TARGET[HEALTHY]))
    np.testing.assert_allclose(metrics.converged, 2 / 3)
    assert bool(metrics.applied)
    np.testing.assert_allclose(metrics.loss, healthy.loss, rtol=1e-14)
    np.testing.assert_allclose(metrics.gradient_norm, healthy.gradient_norm, rtol=1e-13)
    assert relative_error(state.net, expected.net) < 1e-14
    assert relative_error(state.opt_state, expected.opt_state) < 1e-12


def test_a_step_on_nothing_but_bad_samples_changes_no_weight():
    state, metrics = STEP(STATE, (jnp.full_like(X, np.nan), TARGET))
    _assert_equal(state.net, STATE.net)
    assert float(metrics.converged) == float(metrics.loss) == float(metrics.gradient_norm) == 0
    assert int(state.step) == 1


def test_a_step_on_nothing_changes_no_weight():
    state, metrics = STEP(STATE, (X[:0], TARGET[:0]))
    _assert_equal(state.net, STATE.net)
    assert float(metrics.loss) == float(metrics.gradient_norm) == int(metrics.max_steps) == 0
    assert _all_finite(metrics)
    assert _all_zero(jax.grad(lambda net: irnn.apply(net, X[:0]).sum())(NET))


def test_a_gradient_that_is_not_finite_is_taken_for_zero():
    moving, _ = STEP(STATE, (X, TARGET))
    state, metrics = STEP(moving, (X, TARGET.at[1, 0].set(1e300)))  # its square overflows
    assert not metrics.applied
    zero_gradient, _ = STEP(moving, (jnp.full_like(X, np.nan), TARGET))
    _assert_equal(state, zero_gradient)
    assert _all_finite((state.net, state.opt_state))
    _, after = STEP(state, (X, TARGET))
    assert bool(after.applied)


@pytest.mark.parametrize("scale", [1e6, np.nan])
def test_a_step_with_weights_beyond_reason_keeps_them(scale):
    net = jax.tree.map(lambda leaf: leaf * scale, NET)
    state, metrics = STEP(STATE._replace(net=net), (X, TARGET))
    assert _all_finite(metrics)
    assert float(metrics.converged) == (0 if np.isnan(scale) else 1)
    # Saturated, or excluded: nothing to learn from either way.
    _assert_equal(state.net, net)


def test_a_run_with_bad_samples_stays_finite_and_learns():
    def sample(key):
        x = jax.random.normal(key, (4, 2))
        return x.at[0, 0].set(jnp.where(x[1, 0] > 0, jnp.nan, jnp.inf)), jax.nn.sigmoid(x[:, :1])

    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), STATE)
    keys = jax.random.split(jax.random.key(0), 2)
    states, metrics = irnn.fit(states, keys, step=STEP, sample=sample, num_epochs=2, num_steps=60)
    assert _all_finite((states.net, states.opt_state, metrics))
    np.testing.assert_array_equal(metrics.converged, np.full((2, 2, 60), 0.75))
    assert np.all(metrics.loss[:, 1, -20:].mean(axis=1) < metrics.loss[:, 0, :20].mean(axis=1))


# --- anything at all ----------------------------------------------------------------------------

ANY = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1e-300, -1e300, *NOT_FINITE])
FINITE = st.floats(-30, 30) | st.sampled_from([0.0, 1e6, -1e6, 1e-30])
NETS = [NETWORKS["one_layer"], NETWORKS["two_layers"]]


@st.composite
def _problems(draw: st.DrawFn) -> tuple[irnn.Network, jax.Array]:
    """One of four programs, and numbers of any size."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))

    def array(shape: tuple[int, ...], elements: st.SearchStrategy[float]) -> jax.Array:
        drawn = draw(hnp.arrays(np.float64, shape, elements=elements))
        with np.errstate(over="ignore"):
            return jnp.asarray(drawn.astype(dtype))

    net = jax.tree.map(lambda leaf: array(leaf.shape, FINITE), draw(st.sampled_from(NETS)))
    return net, array((3, 2), ANY)


@given(_problems())
def test_flags_are_true_and_gradients_finite(problem):
    net, x = problem
    result, d_net, d_x = _everything(net, x, jnp.ones(3, x.dtype), **MODES["exact"])
    assert result.activities[-1].dtype == x.dtype
    assert _all_finite((d_net, d_x, result.activities))
    eps = float(jnp.finfo(x.dtype).eps)
    A, first = connection_matrix(net), net.layers[0]
    for i, converged in enumerate(np.asarray(result.converged)):
        if not converged:
            assert _all_zero(d_x[i])
            continue
        y = np.concatenate([np.asarray(a[i], float) for a in result.activities])
        drive = np.asarray(first.feedforward, float) @ np.asarray(x[i], float)
        biases = np.concatenate([np.asarray(layer.bias, float) for layer in net.layers])
        drive = np.pad(drive, (0, len(y) - len(drive))) + biases
        # In the library's arithmetic the sum A y + b has its own rounding, and f a slope of 1/4.
        rounding = 4 * eps * (1 + np.max(np.abs(A) @ y + np.abs(drive)))
        assert np.max(np.abs(expit(A @ y + drive) - y)) <= eps**0.75 + rounding


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("n", [6, 28, 60, 140])
def test_a_bad_neighbour_changes_no_more_than_rounding(n, bad):
    rng = np.random.default_rng(n)
    layer = irnn.Layer(
        feedforward=jnp.asarray(rng.normal(size=(n, 9))),
        lateral=jnp.asarray(rng.normal(size=(n, n)) * 4 / np.sqrt(n)),
        bias=jnp.zeros(n),
    )
    net = irnn.Network(layers=(layer,))
    x = rng.normal(size=(40, 9))
    sick = x.copy()
    sick[7] = bad
    one, two = (irnn.equilibrium(net, jnp.asarray(v)) for v in (x, sick))
    others = np.arange(40) != 7
    change = np.abs(np.asarray(one.activities[0] - two.activities[0]))[others]
    assert change.max() <= 64 * np.finfo(float).eps
    np.testing.assert_array_equal(one.converged[others], two.converged[others])
