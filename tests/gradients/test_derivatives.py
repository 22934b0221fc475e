"""Batches, vmap, second derivatives, no forward mode, and an iteration unrolled by hand."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.special import expit

import irnn_jax as irnn
from tests.problems import (
    CHEAP,
    NETWORKS,
    central_differences,
    inputs,
    network,
    relative_error,
    squared_error,
    targets,
)

# Two programs for the same numbers: rounding in another order, magnified by the linear solve.
ROUNDING = 1e-13


# --- batches ------------------------------------------------------------------------------------


def _loss(net: irnn.Network, x: Any, target: Any) -> Any:
    return jnp.sum((irnn.apply(net, x, solver=CHEAP) - target) ** 2)


gradient = jax.jit(jax.grad(_loss, argnums=(0, 1)))


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@functools.cache
def _loop() -> tuple[Any, Any, Any, Any]:
    """Two networks, three samples, and the gradient of each pair by itself: leaves (2, 3, ...)."""
    nets = [network((2, 2, 1), seed=seed) for seed in (7, 1)]
    x, target = inputs(nets[0]), targets(nets[0])
    pairs = [[gradient(net, x[i], target[i]) for i in range(3)] for net in nets]
    return _stack(nets), x, target, _stack([_stack(row) for row in pairs])


def test_batch_is_the_sum_of_a_loop():
    nets, x, target, (d_net, d_x) = _loop()
    first = jax.tree.map(lambda leaf: leaf[0], (nets, d_net, d_x))
    actual = gradient(first[0], x, target)
    expected = (jax.tree.map(lambda leaf: leaf.sum(axis=0), first[1]), first[2])
    assert relative_error(actual, expected) < ROUNDING


_grad = jax.grad(_loss, argnums=(0, 1))


def test_vmap_over_networks_and_samples_is_a_loop():
    nets, x, target, expected = _loop()
    over_samples = jax.vmap(_grad, in_axes=(None, 0, 0))
    over_both = jax.jit(jax.vmap(over_samples, in_axes=(0, None, None)))
    assert relative_error(over_both(nets, x, target), expected) < ROUNDING


def test_vmap_over_networks_of_batches_is_a_loop():
    nets, x, target, (d_net, d_x) = _loop()
    actual = jax.jit(jax.vmap(_grad, in_axes=(0, None, None)))(nets, x, target)
    expected = (jax.tree.map(lambda leaf: leaf.sum(axis=1), d_net), d_x)
    assert relative_error(actual, expected) < ROUNDING


# --- second derivatives -------------------------------------------------------------------------


def _network_loss(net: irnn.Network) -> Any:
    outputs = irnn.apply(net, inputs(net, batch=2), solver=CHEAP)
    return squared_error(outputs, targets(net, batch=2))


def _cell_loss(params: Any) -> Any:
    def cell(params, y, x):
        lateral, drive = params
        return {"y": jax.nn.sigmoid(lateral @ y["y"] + drive * x)}

    result = irnn.fixed_point(cell, params, 0.7, {"y": np.zeros(2)}, solver=CHEAP)
    return jnp.sum(result.activities["y"] ** 3)


SECOND_ORDER = {
    "equilibrium": (_network_loss, NETWORKS["two_layers"]),
    "fixed_point": (_cell_loss, (np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([0.5, -1.0]))),
}


@pytest.mark.parametrize("entry", SECOND_ORDER)
def test_second_derivatives_are_differences_of_gradients(entry):
    loss, params = SECOND_ORDER[entry]
    flat, unflatten = ravel_pytree(params)
    first = jax.jit(jax.grad(lambda flat: loss(unflatten(flat))))
    hessian = jax.jit(jax.jacrev(first))(flat)
    expected = central_differences(first, flat)
    assert relative_error(hessian, expected) < 1e-9
    # A Hessian, so the adjoint of the adjoint is the right one too.
    np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=1e-12 * np.max(np.abs(hessian)))


# --- forward mode -------------------------------------------------------------------------------


def _equilibrium_of(x: Any, mode: Any) -> Any:
    return irnn.apply(NETWORKS["one_layer"], x, solver=CHEAP, gradient=mode)


def _fixed_point_of(x: Any, mode: Any) -> Any:
    def cell(params, y, x):
        return jax.nn.sigmoid(x - y)

    result = irnn.fixed_point(cell, None, x, jnp.zeros(2), solver=CHEAP, gradient=mode)
    return result.activities


FORWARD_MODES = {
    "jvp": lambda f, x: jax.jvp(f, (x,), (x,)),
    "jvp_of_jit": lambda f, x: jax.jvp(jax.jit(f), (x,), (x,)),
    "jacfwd": lambda f, x: jax.jacfwd(f)(x),
    "jit_jacfwd": lambda f, x: jax.jit(jax.jacfwd(f))(x),
    "hessian": lambda f, x: jax.hessian(lambda x: f(x).sum())(x),
    "linearize": lambda f, x: jax.linearize(f, x)[1](x),
}


# Forward over reverse goes through an unrolled loop, where it is right: no error is owed there.
FORWARD_CASES = [
    *itertools.product(FORWARD_MODES, [irnn.Exact()]),
    ("jit_jacfwd", irnn.Unrolled()),
]


@pytest.mark.parametrize("entry", [_equilibrium_of, _fixed_point_of])
@pytest.mark.parametrize(("forward", "mode"), FORWARD_CASES)
def test_forward_mode_says_what_to_use(forward, mode, entry):
    function = functools.partial(entry, mode=mode)
    with pytest.raises(TypeError, match=r"jax\.grad.*jax\.jacrev\(jax\.grad\(loss\)\)"):
        FORWARD_MODES[forward](function, jnp.array([0.3, -0.8]))


# --- unrolled by hand ---------------------------------------------------------------------------


def _iterate(net: irnn.Network, x: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Y(t) and J_W(t) of eqs. (11) and (12), in numpy."""
    Q, W, T = map(np.asarray, net.layers[0])
    n = len(T)
    Y, J = np.zeros(n), np.zeros((n, n, n))
    for _ in range(num_steps):
        f = expit(W @ Y + Q @ x + T)
        delta = np.einsum("ij,m->ijm", np.eye(n), Y)
        J = (f * (1 - f))[:, None, None] * (np.einsum("ik,kjm->ijm", W, J) + delta)
        Y = f
    return Y, J


def test_unrolled_picard_is_the_papers_recursion():
    net = NETWORKS["one_layer"]
    x = inputs(net)[0]

    def activities(layer):
        result = irnn.equilibrium(
            irnn.Network(layers=(layer,)),
            x,
            solver=irnn.Picard(tolerance=0.02),
            gradient=irnn.Unrolled(),
        )
        return result.activities[0], result

    unrolled, result = jax.jit(jax.jacrev(activities, has_aux=True))(net.layers[0])
    num_steps = int(result.num_steps)
    Y, J = _iterate(net, np.asarray(x), num_steps)
    np.testing.assert_allclose(result.activities[0], Y, rtol=0, atol=1e-15)
    assert relative_error(unrolled.lateral, J) < 1e-14
    # So far from the equilibrium the limit of the recursion is another one.
    _, limit = _iterate(net, np.asarray(x), 300)
    assert 2 <= num_steps <= 8
    assert relative_error(J, limit) > 1e-3
