"""`Exact(forward_mode=True)`: forward, reverse, and each through the other."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import irnn_jax as irnn
from tests.problems import (
    CHEAP,
    central_differences,
    inputs,
    network,
    random_gradients,
    relative_error,
)

BOTH = irnn.Exact(forward_mode=True)
ROUNDING = 1e-12


def _dot(a: Any, b: Any) -> Any:
    return sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)))


# --- problems: a function of (parameters, gradient), and parameters -------------------------------


def _of_network(sizes: tuple[int, ...], activation: Any = jax.nn.sigmoid) -> Any:
    net = network(sizes, scale=1 / np.sqrt(max(sizes)))
    x = inputs(net)
    options: Any = {"solver": CHEAP, "activation": activation}
    return lambda net, mode: irnn.apply(net, x, gradient=mode, **options), net


def _of_cell() -> Any:
    def cell(params, y, x):
        lateral, drive = params
        return {"y": jax.nn.sigmoid(lateral @ y["y"] + drive * x)}

    def activities(params, mode):
        start = {"y": np.zeros(2)}
        return irnn.fixed_point(cell, params, 0.7, start, solver=CHEAP, gradient=mode).activities[
            "y"
        ]

    return activities, (jnp.array([[1.0, -2.0], [3.0, 0.5]]), jnp.array([0.5, -1.0]))


def _of_convolution() -> Any:
    def cell(kernel, y, x):
        order = ("NHWC", "HWIO", "NHWC")
        return jnp.tanh(
            x + jax.lax.conv_general_dilated(y, kernel, (1, 1), "SAME", dimension_numbers=order)
        )

    x = random_gradients(jnp.zeros((2, 4, 4, 2)), seed=5)

    def activities(kernel, mode):
        options: Any = {"solver": CHEAP, "gradient": mode}
        start = jnp.zeros_like(x)
        return irnn.fixed_point(cell, kernel, x, start, batched=True, **options).activities

    return activities, 0.1 * random_gradients(jnp.zeros((3, 3, 2, 2)))


slow = pytest.mark.slow
PROBLEMS = {
    "sigmoid_3_2": functools.partial(_of_network, (3, 2)),
    "sigmoid_4_5_2": functools.partial(_of_network, (4, 5, 2)),
    "sigmoid_10_40_2": functools.partial(_of_network, (10, 40, 2)),
    "sigmoid_3_130_2": functools.partial(_of_network, (3, 130, 2)),
    "tanh_3_2": functools.partial(_of_network, (3, 2), jnp.tanh),
    "tanh_4_5_2": functools.partial(_of_network, (4, 5, 2), jnp.tanh),
    "tanh_10_40_2": functools.partial(_of_network, (10, 40, 2), jnp.tanh),
    "cell": _of_cell,
    "convolution": _of_convolution,
}
FEW = ("tanh_4_5_2", "sigmoid_10_40_2", "convolution")
ALL = [pytest.param(name, marks=() if name in FEW else slow) for name in PROBLEMS]


@pytest.mark.parametrize("problem", ALL)
def test_forward_is_the_transpose_of_reverse(problem):
    """<w, J v> = <J^T w, v>, of this mode's own reverse rule and of the default's."""
    function, params = PROBLEMS[problem]()
    direction = random_gradients(params, 3)

    @jax.jit
    def both(direction):
        y, tangent = jax.jvp(lambda p: function(p, BOTH), (params,), (direction,))
        w = random_gradients(y, seed=4)
        pulled = [jax.vjp(lambda p: function(p, m), params)[1](w)[0] for m in (BOTH, irnn.Exact())]  # noqa: B023
        return jnp.vdot(w, tangent), pulled

    forward, (own, default) = both(direction)
    np.testing.assert_allclose(_dot(own, direction), forward, rtol=ROUNDING)
    assert relative_error(own, default) < ROUNDING


# --- second derivatives -------------------------------------------------------------------------

ORDERS = {
    "forward_over_reverse": jax.hessian,
    "reverse_over_forward": lambda f: jax.jacrev(jax.jacfwd(f)),
    "forward_over_forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "reverse_over_reverse": lambda f: jax.jacrev(jax.jacrev(f)),
}


@pytest.mark.parametrize(
    "order", [o if o == "forward_over_reverse" else pytest.param(o, marks=slow) for o in ORDERS]
)
@pytest.mark.parametrize("problem", ["tanh_3_2", pytest.param("cell", marks=slow)])
def test_hessians(problem, order):
    function, params = PROBLEMS[problem]()
    flat, unflatten = ravel_pytree(params)

    def loss(flat, mode=BOTH):
        return jnp.sum(function(unflatten(flat), mode) ** 3)

    def default(flat):
        return jax.grad(functools.partial(loss, mode=irnn.Exact()))(flat)

    found = jax.jit(ORDERS[order](loss))(flat)
    assert relative_error(found, jax.jit(jax.jacrev(default))(flat)) < 1e-10
    assert relative_error(found, central_differences(jax.jit(default), flat)) < 1e-8


@pytest.mark.parametrize(
    "problem",
    [
        "convolution",
        pytest.param("sigmoid_4_5_2", marks=slow),
        pytest.param("sigmoid_10_40_2", marks=slow),
        pytest.param("tanh_10_40_2", marks=slow),
    ],
)
def test_products_with_a_hessian(problem):
    """jvp of grad against grad of a jvp, and against differences of the default's gradients."""
    function, params = PROBLEMS[problem]()
    direction = jax.tree.map(lambda leaf: 0.1 * leaf, random_gradients(params, 3))

    def loss(params, mode=BOTH):
        return jnp.sum(function(params, mode) ** 3)

    found = jax.jit(lambda p: jax.jvp(jax.grad(loss), (p,), (direction,))[1])(params)
    other = jax.jit(jax.grad(lambda p: jax.jvp(loss, (p,), (direction,))[1]))(params)
    assert relative_error(found, other) < 1e-10
    default = jax.jit(
        lambda step: ravel_pytree(
            jax.grad(functools.partial(loss, mode=irnn.Exact()))(
                jax.tree.map(lambda p, d: p + step * d, params, direction)
            )
        )[0]
    )
    expected = central_differences(lambda step: default(step[0]), np.zeros(1)).ravel()
    assert relative_error(ravel_pytree(found)[0], expected) < 1e-8


def test_a_product_with_the_gauss_newton_matrix():
    function, params = PROBLEMS["sigmoid_3_2"]()
    flat, unflatten = ravel_pytree(params)
    direction = np.asarray(random_gradients(flat, 3))

    def outputs(flat, mode=BOTH):
        return function(unflatten(flat), mode).ravel()

    @jax.jit
    def product(direction):
        outputs_at, push = jax.linearize(outputs, flat)
        return jax.vjp(outputs, flat)[1](push(direction))[0], outputs_at

    J = np.asarray(jax.jit(jax.jacrev(functools.partial(outputs, mode=irnn.Exact())))(flat))
    assert relative_error(product(direction)[0], J.T @ (J @ direction)) < ROUNDING
