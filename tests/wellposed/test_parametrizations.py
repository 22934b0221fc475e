"""Parametrised networks: where they start, what holds for any parameters, and that they drop in."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.special import expit, xlogy

import irnn_jax as irnn
from tests.problems import connection_matrix, inputs, relative_error, targets

SIZES = [(2, 2), (4, 5, 2), (3, 2, 4, 3, 1)]
PARAMETRIZATIONS = {
    "certified": irnn.Certified(),
    "certified_tanh": irnn.Certified(margin=0.2, slope_bound=1.0),
    "symmetric": irnn.Symmetric(),
    "symmetric_weak": irnn.Symmetric(feedback=0.01),
}
CERTIFIED = irnn.Certified(margin=0.05)


def moved(net: Any, size: float, seed: int) -> Any:
    """The parametrised network with normal noise added to every free parameter."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + size * rng.normal(size=leaf.shape), net)


def start(sizes: tuple[int, ...], parametrization: Any, seed: int = 3) -> Any:
    return irnn.init(jax.random.key(seed), sizes, parametrization=parametrization)


def scale_of(net: Any) -> np.ndarray:
    return np.concatenate([np.asarray(p) for p in net.scales()])


# --- where they start ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_the_start_is_the_papers_network(sizes, name):
    parametrization = PARAMETRIZATIONS[name]
    plain, net = start(sizes, None), start(sizes, parametrization).network()
    assert net.sizes == sizes
    for layer, drawn in zip(net.layers, plain.layers, strict=True):
        np.testing.assert_array_equal(layer.bias, drawn.bias)
        # 1/L of 4 and products of a few numbers below it.
        np.testing.assert_allclose(layer.feedforward, drawn.feedforward, rtol=0, atol=4e-15)
        np.testing.assert_allclose(layer.lateral, drawn.lateral, rtol=0, atol=4e-15)
    for weights, layer in zip(net.feedback, plain.layers[1:], strict=True):
        c = getattr(parametrization, "feedback", 0)
        np.testing.assert_allclose(weights, c * layer.feedforward.T, rtol=0, atol=4e-15)


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_wide_layers_start_there_too(dtype):
    # |Q| is about 6 here: with P = 1 the bound of tanh, 0.8, would be broken many times over.
    parametrization = PARAMETRIZATIONS["certified_tanh"]
    make = functools.partial(irnn.init, jax.random.key(0), (3, 300, 20), dtype=dtype)
    plain, net = make(), make(parametrization=parametrization)
    assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {jnp.dtype(dtype)}
    errors = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), net.network(), plain)
    assert max(map(float, jax.tree.leaves(errors))) < 50 * jnp.finfo(dtype).eps
    P = scale_of(net)
    B = P[:, None] * connection_matrix(net.network()) / P
    assert np.linalg.eigvalsh((B + B.T) / 2).max() < 0.5
    # No gradient is lost in a singular V.
    assert all(np.linalg.svd(V, compute_uv=False).min() > 0.5 for V in net.factor)


def test_starts_are_vmapped():
    make = functools.partial(irnn.init, sizes=(3, 4, 2), parametrization=CERTIFIED)
    nets = jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(3), 3))
    alone = make(jax.random.split(jax.random.key(3), 3)[1])
    own = jax.tree.map(lambda leaf: leaf[1], nets)
    assert relative_error(own, alone) < 1e-14


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: irnn.Certified(margin=0.0), "margin must be between 0 and 1"),
        (lambda: irnn.Certified(margin=1.0), "margin must be between 0 and 1"),
        (lambda: irnn.Certified(slope_bound=-1.0), "slope_bound must be positive"),
        (lambda: irnn.Certified(scale_limit=0.0), "scale_limit must be positive"),
        (lambda: irnn.Symmetric(feedback=0.0), "feedback must be positive"),
        (
            lambda: irnn.init(
                jax.random.key(0), (2, 2), recurrent=False, parametrization=irnn.Certified()
            ),
            "no recurrent weights",
        ),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- what holds for any parameters --------------------------------------------------------------

NOISE = st.floats(0.01, 5.0)
SEEDS = st.integers(0, 2**16)


@given(size=NOISE, seed=SEEDS, sizes=st.sampled_from(SIZES), tanh=st.booleans())
def test_certified_holds_for_any_parameters(size, seed, sizes, tanh):
    parametrization = PARAMETRIZATIONS["certified_tanh"] if tanh else CERTIFIED
    L, m = parametrization.slope_bound, parametrization.margin
    net = moved(start(sizes, parametrization), size, seed)
    A, P = connection_matrix(net.network()), scale_of(net)
    assert np.all(np.abs(np.log(P)) <= net.scale_limit)
    B = P[:, None] * A / P
    rounding = 1e-14 * np.linalg.norm(B)
    assert np.linalg.eigvalsh((B + B.T) / 2).max() <= (1 - m) / L + rounding
    # Whatever the slopes are, the linearised flow decays.
    rng = np.random.default_rng(seed)
    for _ in range(20):
        slopes = L * rng.uniform(size=len(A)) ** rng.choice([0.1, 1, 5])
        eigenvalues = np.linalg.eigvals(slopes[:, None] * A - np.eye(len(A)))
        assert eigenvalues.real.max() < 0
    assert float(irnn.certify(net, slope_bound=L).lyapunov_margin) >= m - L * rounding


def flow(net: irnn.Network, x: Any, Y: Any, end: float, f: Any = expit) -> Any:
    A = connection_matrix(net)
    b = np.concatenate([np.asarray(layer.bias) for layer in net.layers])
    b[: net.sizes[1]] += np.asarray(net.layers[0].feedforward) @ np.asarray(x)
    return solve_ivp(
        lambda t, Y: f(A @ Y + b) - Y, (0, end), Y, method="LSODA", rtol=1e-9, atol=1e-11
    ).y


@pytest.mark.parametrize("seed", range(4))
def test_a_certified_flow_ends_in_one_point_from_anywhere(seed):
    net = moved(start((2, 4, 2), CERTIFIED), 2.0, seed)
    x = inputs(net.network())[0]
    result = irnn.equilibrium(net, x)
    assert result.converged
    Y = np.concatenate(result.activities)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        # From outside of the activities' range too.
        end = flow(net.network(), x, rng.uniform(-2, 3, size=Y.size), 300.0)[:, -1]
        np.testing.assert_allclose(end, Y, rtol=0, atol=1e-6)


@given(size=NOISE, seed=SEEDS, sizes=st.sampled_from(SIZES))
def test_symmetric_is_symmetric_for_any_parameters(size, seed, sizes):
    net = moved(start(sizes, irnn.Symmetric()), size, seed)
    A, P = connection_matrix(net.network()), scale_of(net)
    weighted = P[:, None] ** 2 * A
    np.testing.assert_allclose(weighted, weighted.T, rtol=1e-12, atol=0)
    eigenvalues = np.linalg.eigvals(A)
    assert np.max(np.abs(eigenvalues.imag)) <= 1e-6 * np.max(np.abs(eigenvalues))


@pytest.mark.parametrize("seed", range(3))
def test_a_symmetric_flow_descends_its_energy(seed):
    net = moved(start((2, 4, 2), irnn.Symmetric()), 3.0, seed)
    plain, x = net.network(), np.array([0.3, -1.0])
    A, weights = connection_matrix(plain), scale_of(net) ** 2
    b = np.concatenate([np.asarray(layer.bias) for layer in plain.layers])
    b[:4] += np.asarray(plain.layers[0].feedforward) @ x

    def energy(Y):
        # The integral of logit from 1/2 to Y is Y log Y + (1 - Y) log(1 - Y) + log 2.
        entropy = xlogy(Y, Y) + xlogy(1 - Y, 1 - Y)
        return weights @ (entropy - b * Y) - Y @ (weights[:, None] * A) @ Y / 2

    path = flow(plain, x, np.random.default_rng(seed).uniform(size=6), 200.0)
    energies = [energy(Y) for Y in np.clip(path, 0, 1).T]
    # The integration is good to 1e-9 an activity, the energies are of the order of ten.
    assert np.all(np.diff(energies) < 1e-7)
    assert energies[0] - energies[-1] > 0.1
    np.testing.assert_allclose(expit(A @ path[:, -1] + b), path[:, -1], rtol=0, atol=1e-5)


# --- wherever a network goes --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["certified", "symmetric"])
def test_parametrised_networks_drop_in(name):
    net = moved(start((3, 4, 2), PARAMETRIZATIONS[name]), 0.3, 1)
    plain = net.network()
    x = inputs(plain)
    np.testing.assert_allclose(irnn.apply(net, x), irnn.apply(plain, x), rtol=1e-14)
    for function in (irnn.equilibrium, irnn.stability):
        own, expected = function(net, x), function(plain, x)
        for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)
    assert relative_error(irnn.jacobians(net, x[0]), irnn.jacobians(plain, x[0])) < 1e-14


@pytest.mark.parametrize("name", ["certified", "symmetric"])
def test_gradients_reach_the_free_parameters(name):
    net = moved(start((3, 4, 2), PARAMETRIZATIONS[name]), 0.3, 1)
    x, target = inputs(net.network()), targets(net.network())

    def loss(net):
        return jnp.mean((irnn.apply(net, x) - target) ** 2)

    rng = np.random.default_rng(0)
    # About one long in all: a longer one raises the fifth derivative by its fifth power.
    direction = jax.tree.map(lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape)), net)

    @jax.jit
    def along(t):
        return loss(jax.tree.map(lambda leaf, d: leaf + t * d, net, direction))

    h = 2e-3
    differences = (8 * (along(h) - along(-h)) - (along(2 * h) - along(-2 * h))) / (12 * h)
    gradient = jax.jit(jax.grad(loss))(net)
    actual = sum(
        jnp.vdot(g, d)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    # Rounding of 1e-16/h, and h^4/30 of the fifth derivative.
    np.testing.assert_allclose(actual, differences, rtol=0, atol=1e-11)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def _names(tree: Any) -> dict[str, set[str]]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    names: dict[str, set[str]] = {}
    for path, group in paths:
        names.setdefault(path[0].name, set()).add(group)
    return names


def test_adam_knows_the_groups():
    net = start((3, 4, 2), CERTIFIED)
    groups = {name: group for name, (group,) in _names(net.groups()).items()}
    assert groups.pop("feedforward") == "feedforward"
    assert groups.pop("bias") == "bias"
    assert set(groups.values()) == {"lateral"}
    assert set(groups) == {"scale", "factor", "factor_above", "rotation", "rotation_below"}
    optimizer: Any = irnn.adam({"feedforward": 0.1, "lateral": 0.01, "bias": 0.001})
    ones = jax.tree.map(jnp.ones_like, net)
    updates, _ = optimizer.update(ones, optimizer.init(net), net)
    np.testing.assert_allclose(updates.feedforward, -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates.factor[0], -0.01, rtol=1e-6)
    np.testing.assert_allclose(updates.bias[0], -0.001, rtol=1e-6)


@pytest.mark.parametrize("name", ["certified", "symmetric"])
def test_runs_are_trained_side_by_side_and_keep_their_property(name):
    parametrization = PARAMETRIZATIONS[name]
    optimizer = irnn.adam(0.05)
    step = irnn.make_train_step(irnn.squared_error, optimizer)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)), jnp.float32)
    target = jax.nn.sigmoid(3 * x[:, :1] * x[:, 1:])

    def create(key):
        net = irnn.init(key, (2, 3, 1), dtype=jnp.float32, parametrization=parametrization)
        return irnn.TrainState.create(net, optimizer)

    keys = jax.random.split(jax.random.key(0), 2)
    states, metrics = irnn.fit(
        jax.vmap(create)(keys),
        keys,
        step=step,
        sample=lambda key: (x, target),
        num_epochs=1,
        num_steps=300,
    )
    assert np.all(metrics.converged == 1)
    assert np.all(metrics.loss[:, 0, -1] < 0.5 * metrics.loss[:, 0, 0])
    assert {leaf.dtype for leaf in jax.tree.leaves(states.net)} == {jnp.dtype("float32")}
    for run in range(2):
        net = jax.tree.map(lambda leaf, run=run: leaf[run], states.net)
        A, P = connection_matrix(net.network()), scale_of(net)
        if name == "certified":
            B = P[:, None] * A / P
            assert np.linalg.eigvalsh((B + B.T) / 2).max() < 0.95 * 4 * (1 + 1e-5)
        else:
            M = P[:, None] ** 2 * A
            assert np.max(np.abs(M - M.T)) < 1e-5 * np.max(np.abs(M))
