"""Convolutions that are brought into order have the values that they had."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from irnn_jax.xla.convolutions import canonical

# How the axes of input, kernel and output lie, and what else there is.
ORDERS_2D = [
    ("NHWC", "HWIO", "NHWC"),
    ("NCHW", "OIHW", "NCHW"),
    ("NCHW", "HWIO", "NHWC"),
    ("HWNC", "IHWO", "CNHW"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "same": {"window_strides": (1, 1), "padding": "SAME"},
    "valid": {"window_strides": (1, 1), "padding": "VALID"},
    "padded": {"window_strides": (1, 1), "padding": [(0, 2), (3, 1)]},
    "cropped": {"window_strides": (1, 1), "padding": [(-1, 0), (1, -1)]},
    "strides": {"window_strides": (2, 3), "padding": "SAME"},
    "dilated_kernel": {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1)},
    "dilated_input": {
        "window_strides": (1, 1),
        "padding": [(1, 1), (2, 2)],
        "lhs_dilation": (2, 2),
    },
    "groups": {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
    "depthwise": {"window_strides": (1, 2), "padding": "SAME", "feature_group_count": 4},
    "groups_of_samples": {"window_strides": (1, 1), "padding": "SAME", "batch_group_count": 2},
}


def _laid_out(array: np.ndarray, here: str, there: str) -> np.ndarray:
    return np.transpose(array, [here.index(axis) for axis in there])


def _problem(order: tuple[str, ...], options: dict[str, Any], dtype: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    groups = options.get("feature_group_count", 1)
    places = "".join(axis for axis in order[0] if axis not in "NC")
    shape, window = (6, 5)[: len(places)], (3, 2)[: len(places)]
    lhs = rng.normal(size=(4, *shape, 4))
    rhs = rng.normal(size=(*window, 4 // groups, 8))
    return (
        jnp.asarray(_laid_out(lhs, f"N{places}C", order[0]), dtype),
        jnp.asarray(_laid_out(rhs, f"{places}IO", order[1]), dtype),
    )


def _assert_same(function: Any, argument: Any) -> None:
    """Called once and in a loop; of the same shape and dtype."""
    expected = jax.jit(function)(argument)
    rewritten = canonical(function, argument)
    actual = jax.jit(rewritten)(argument)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    # Sums of a few dozen products, in another order.
    bound = 100 * float(jnp.finfo(argument.dtype).eps) * np.max(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


def _is_rewritten(function: Any, argument: Any) -> bool:
    before, after = (
        str(jax.make_jaxpr(f)(argument)) for f in (function, canonical(function, argument))
    )
    return before != after


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("order", ORDERS_2D, ids="-".join)
def test_in_two_dimensions(order, options, dtype):
    lhs, rhs = _problem(order, OPTIONS[options], dtype)

    def convolve(lhs):
        return lax.conv_general_dilated(lhs, rhs, dimension_numbers=order, **OPTIONS[options])

    _assert_same(convolve, lhs)

    def of_kernels(rhs):
        return lax.conv_general_dilated(lhs, rhs, dimension_numbers=order, **OPTIONS[options])

    _assert_same(of_kernels, rhs)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("order", [("NHC", "HIO", "NHC"), ("NCH", "OIH", "NCH")], ids="-".join)
@pytest.mark.parametrize("stride", [1, 2])
def test_in_one_dimension(order, stride, dtype):
    lhs, rhs = _problem(order, {}, dtype)

    def convolve(lhs):
        return lax.conv_general_dilated(lhs, rhs, (stride,), "SAME", dimension_numbers=order)

    _assert_same(convolve, lhs)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("options", ["same", "valid", "strides", "dilated_kernel", "groups"])
@pytest.mark.parametrize("order", ORDERS_2D[:2], ids="-".join)
def test_transposed_ones(order, options, dtype):
    """What reverse mode makes of a convolution: of the input, and of the kernel."""
    lhs, rhs = _problem(order, OPTIONS[options], dtype)

    def convolve(lhs, rhs):
        return lax.conv_general_dilated(lhs, rhs, dimension_numbers=order, **OPTIONS[options])

    out, pullback = jax.vjp(convolve, lhs, rhs)
    cotangent = jnp.cos(jnp.arange(out.size, dtype=dtype)).reshape(out.shape)
    for argument in range(2):
        _assert_same(lambda w, argument=argument: pullback(w)[argument], cotangent)


LHS, RHS = _problem(ORDERS_2D[1], OPTIONS["same"], jnp.float64)


def _convolve(lhs: Any) -> Any:
    return lax.conv_general_dilated(lhs, RHS, dimension_numbers=ORDERS_2D[1], **OPTIONS["same"])


@jax.custom_jvp
def _with_a_rule(lhs: Any) -> Any:
    return jnp.tanh(_convolve(lhs))


_with_a_rule.defjvp(lambda u, t: (_with_a_rule(u[0]), t[0]))


INSIDE = {
    "jit": lambda lhs: jnp.tanh(jax.jit(_convolve)(lhs)),
    "jit_of_jit": lambda lhs: jax.jit(lambda v: jax.jit(_convolve)(v) + 1)(lhs),
    "custom_jvp": lambda lhs: _with_a_rule(2 * lhs),
    "checkpoint": lambda lhs: jax.checkpoint(_convolve)(lhs),
    "vmap": lambda lhs: jax.vmap(lambda one: _convolve(one[None])[0])(lhs),
}


@pytest.mark.usefixtures("as_on_a_cpu")
@pytest.mark.parametrize("name", INSIDE)
def test_inside_of_other_functions(name):
    _assert_same(INSIDE[name], LHS)
    assert _is_rewritten(INSIDE[name], LHS)


@pytest.mark.usefixtures("as_on_a_cpu")
def test_in_a_loop():
    def repeated(lhs):
        step = canonical(lambda v: jnp.tanh(_convolve(v)[:, :4]), lhs)
        return lax.fori_loop(0, 3, lambda _, v: step(v), lhs)

    expected = LHS
    for _ in range(3):
        expected = jnp.tanh(_convolve(expected)[:, :4])
    np.testing.assert_allclose(jax.jit(repeated)(LHS), expected, rtol=0, atol=1e-13)


def test_what_has_no_convolution_is_left_alone():
    def plain(lhs):
        return jnp.tanh(lhs)

    assert canonical(plain, LHS) is plain


def test_elsewhere_nothing_is_rewritten(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert canonical(_convolve, LHS) is _convolve
