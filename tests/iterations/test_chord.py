"""The linearisation that a batch shares, on the way to its equilibria."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax.iterations.chord import chord_of, chord_pays
from irnn_jax.xla.tuning import DIRECT_UP_TO
from tests.problems import inputs, network, relative_error

HIDDEN = DIRECT_UP_TO + 20
# Recurrent weights so strong that plain steps crawl and a chord is worth its price.
NET = network((5, HIDDEN, 3), scale=5 / np.sqrt(HIDDEN))
X = inputs(NET, 160)


def _loss(net, x, **options):
    result = irnn.equilibrium(net, x, **options)
    return jnp.sum(jnp.sin(result.activities[-1])) / len(x), result


def _gradient(solver, **options):
    def loss(net):
        return _loss(net, X, solver=solver, **options)

    return jax.jit(jax.grad(loss, has_aux=True))


def test_it_is_the_linearisation_with_the_mean_slopes():
    rng = np.random.default_rng(0)
    matrix, mean = rng.normal(size=(7, 7)), rng.uniform(0, 0.25, size=7)
    chord = chord_of(jnp.asarray(matrix), jnp.asarray(mean))
    expected = np.linalg.solve(np.eye(7) - matrix * mean, matrix)
    np.testing.assert_allclose(chord.response, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_where_it_pays(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert chord_pays(HIDDEN, is_shared=True) == (backend == "cpu")
    assert not chord_pays(HIDDEN, is_shared=False)
    assert not chord_pays(DIRECT_UP_TO, is_shared=True)


@pytest.mark.usefixtures("as_on_a_cpu")
def test_samples_that_vmap_adds_share_it():
    def gradient(net, x):
        return jax.grad(lambda net: _loss(net, x, solver=irnn.Exponential())[0])(net)

    parts = jax.jit(jax.vmap(gradient, in_axes=(None, 0)))(NET, X.reshape(2, -1, 5))
    expected, _ = _gradient(irnn.Exponential())(NET)
    assert relative_error(jax.tree.map(lambda leaf: leaf.mean(axis=0), parts), expected) < 1e-9


def test_a_second_attempt_needs_none():
    """With one, without one, and after a first attempt with or without."""
    exponential, plain = irnn.Exponential(), irnn.Picard()
    for solvers in ((exponential, plain), (plain, exponential), (exponential, exponential)):
        cascade = irnn.Cascade(solvers=solvers)
        found = jax.eval_shape(
            lambda net, s=cascade: irnn.equilibrium(net, X, solver=s, check_stability=True), NET
        )
        assert found.activities[-1].shape == (160, 3)


@pytest.mark.slow
def test_second_derivatives_and_networks_side_by_side():
    direction = network((5, HIDDEN, 3), scale=0.1 / np.sqrt(HIDDEN), seed=3)
    x = X[:3]

    def along(step):
        return jax.tree.map(lambda a, b: a + step * b, NET, direction)

    def slope(net):
        gradient = jax.grad(lambda net: _loss(net, x)[0])(net)
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))

    step = 1e-4
    curvature = jax.jit(jax.grad(lambda step: slope(along(step))))(0.0)
    ends = jax.jit(jax.vmap(lambda step: slope(along(step))))(jnp.array([-step, step]))
    assert abs(curvature) > 1e-4
    np.testing.assert_allclose(curvature, (ends[1] - ends[0]) / (2 * step), rtol=1e-5)


@pytest.mark.usefixtures("as_on_a_cpu")
def test_second_derivatives_go_through_the_adjoint():
    direction = jax.tree.map(lambda leaf: leaf / 10, NET)

    def slope(step):
        def loss(net):
            return _loss(net, X, solver=irnn.Exponential())[0]

        along = jax.tree.map(lambda leaf, way: leaf + step * way, NET, direction)
        gradient = jax.grad(loss)(along)
        return sum(map(jnp.vdot, jax.tree.leaves(gradient), jax.tree.leaves(direction)))

    second, value = jax.jit(jax.grad(slope)), jax.jit(slope)
    expected = (value(1e-4) - value(-1e-4)) / 2e-4
    np.testing.assert_allclose(second(0.0), expected, rtol=1e-6)
