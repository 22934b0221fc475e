"""Certificates: never wrong, and found where they are known to exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import irnn_jax as irnn
from irnn_jax.networks.dense import drive
from tests.problems import NETWORKS, connection_matrix, inputs, network, oscillator


def one_layer(A: np.ndarray) -> irnn.Network:
    layer = irnn.Layer(
        feedforward=jnp.ones((len(A), 1)), lateral=jnp.asarray(A), bias=jnp.zeros(len(A))
    )
    return irnn.Network(layers=(layer,))


certify = jax.jit(irnn.certify, static_argnames="slope_bound")


@given(scale=st.floats(0.1, 6.0), seed=st.integers(0, 2**16), L=st.sampled_from([0.25, 1.0]))
def test_a_certificate_is_never_wrong(scale, seed, L):
    net = network((2, 3, 2), scale=scale * 0.25 / L, seed=seed)
    found = certify(net, slope_bound=L)
    A, P, w = connection_matrix(net), np.asarray(found.scale), np.asarray(found.weights)
    assert np.all(P > 0)
    assert np.all(w > 0)
    # The margins are those of the P and w that come with them.
    B = P[:, None] * A / P
    lyapunov = 1 - L * np.linalg.eigvalsh((B + B.T) / 2).max()
    row_sum = 1 - L * np.max(np.abs(A) @ w / w)
    np.testing.assert_allclose(found.lyapunov_margin, lyapunov, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.row_sum_margin, row_sum, rtol=0, atol=1e-13)
    assert bool(found.is_certified) == (max(lyapunov, row_sum) > 0)
    # The second condition implies the first, with the P that the search begins at.
    assert lyapunov > row_sum - 1e-3
    rng = np.random.default_rng(seed)
    for _ in range(50):
        D = L * rng.uniform(size=len(A)) ** rng.choice([0.05, 1, 5])
        rate = 1 - np.linalg.eigvals(D[:, None] * A).real.max()
        # Multistability takes an eigenvalue of D A beyond 1; rates are at least the margins.
        assert rate > 0 or not found.is_certified
        assert rate >= row_sum - 1e-12


def test_the_search_finds_what_is_there():
    # Connections that meet the condition with a P far from 1, which row sums cannot show.
    rng = np.random.default_rng(0)
    nets = []
    for _ in range(20):
        V, U = rng.normal(size=(2, 7, 7))
        P = np.exp(1.5 * rng.normal(size=7))
        B = 3.5 * np.eye(7) - V.T @ V + 3 * (U - U.T)
        nets.append(one_layer(B * P / P[:, None]))
    found = jax.vmap(irnn.certify)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets))
    assert found.lyapunov_margin.shape == (20,)
    assert np.all(found.is_certified)
    assert np.all(found.row_sum_margin < 0)


@pytest.mark.parametrize(("L", "f"), [(0.25, jax.nn.sigmoid), (1.0, jnp.tanh)])
def test_two_equilibria_are_not_certified(L, f):
    # Two neurons that inhibit each other: which of them is on depends on where the flow begins.
    strength = 2 / L
    net = one_layer(np.array([[0.0, -strength], [-strength, 0.0]]))
    biased = net.layers[0]._replace(bias=jnp.full(2, strength * float(f(jnp.zeros(())))))
    found = irnn.certify(irnn.Network(layers=(biased,)), slope_bound=L)
    # Both matrices have the eigenvalue `strength`, whatever P and w are.
    np.testing.assert_allclose(found.lyapunov_margin, -1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.row_sum_margin, -1, rtol=0, atol=1e-6)
    assert not found.is_certified


def test_a_limit_cycle_is_not_certified():
    assert not irnn.certify(oscillator()).is_certified


def test_the_row_sum_margin_is_how_fast_picard_converges():
    net = NETWORKS["partly_recurrent"]
    found = irnn.certify(net)
    assert found.is_certified
    x = inputs(net)
    A, w = connection_matrix(net), np.asarray(found.weights)
    b = np.asarray(drive(net, x))
    start = np.random.default_rng(0).uniform(size=(2, *b.shape))
    mapped = 1 / (1 + np.exp(-(start @ A.T + b)))
    before, after = (np.max(np.abs(np.diff(y, axis=0)) / w, axis=-1) for y in (start, mapped))
    assert np.all(after <= (1 - float(found.row_sum_margin)) * before)


def test_feed_forward_networks_and_lone_neurons_are_certified():
    assert irnn.certify(network((3, 4, 2), scale=5.0, recurrent=False)).is_certified
    found = irnn.certify(irnn.init(jax.random.key(0), (2, 2)))
    np.testing.assert_allclose(found.lyapunov_margin, 1, rtol=0, atol=1e-12)


def test_the_scale_of_a_symmetric_network_is_the_best_one():
    net = irnn.init(jax.random.key(0), (2, 4, 2), parametrization=irnn.Symmetric(feedback=0.3))
    found = irnn.certify(net)
    # No P brings the symmetric part below the largest real part of A's eigenvalues.
    largest = np.linalg.eigvals(connection_matrix(net.network())).real.max()  # pyright: ignore
    np.testing.assert_allclose(found.lyapunov_margin, 1 - largest / 4, rtol=0, atol=1e-12)
    assert irnn.certify(net.network()).lyapunov_margin <= found.lyapunov_margin + 1e-12


def test_margins_are_differentiable():
    net = NETWORKS["two_layers"]
    gradient = jax.jit(jax.grad(lambda net: irnn.certify(net).lyapunov_margin))(net)
    shrunk = jax.tree.map(lambda leaf, g: leaf + 1e-3 * g, net, gradient)
    assert irnn.certify(shrunk).lyapunov_margin > irnn.certify(net).lyapunov_margin
    assert not np.any(gradient.layers[0].feedforward)  # the input's weights play no part


def test_what_is_no_number_is_no_certificate():
    for bad in (np.nan, np.inf):
        assert not irnn.certify(one_layer(np.full((2, 2), bad))).is_certified
    with pytest.raises(ValueError, match="slope_bound must be positive"):
        irnn.certify(NETWORKS["one_layer"], slope_bound=0.0)


@pytest.mark.usefixtures("strict_promotion")
def test_certificates_in_float32():
    wide = NETWORKS["two_layers"]
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), wide)
    found, expected = irnn.certify(narrow), irnn.certify(wide)
    assert {leaf.dtype for leaf in found[:4]} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found.lyapunov_margin, expected.lyapunov_margin, atol=1e-2)
    np.testing.assert_allclose(found.row_sum_margin, expected.row_sum_margin, atol=1e-2)
