"""The slope of an activation function, and what is known of it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.activations.by_layer import ByLayer
from irnn_jax.activations.power_law import PowerLaw
from irnn_jax.xla.rewrite import operations

Activation = Callable[[Array], Array]


# Activations whose values are of order one, whatever the units of what drives them, and their
# largest slope.
OF_ORDER_ONE: dict[Activation, float] = {
    jax.nn.sigmoid: 0.25,
    jax.lax.logistic: 0.25,
    jnp.tanh: 1.0,
    jax.lax.tanh: 1.0,
    jax.nn.tanh: 1.0,
}

# Of the activations for which it is known, the largest slope; none of them has a negative one.
SLOPE_BOUNDS: dict[Activation, float] = OF_ORDER_ONE | {
    jax.nn.relu: 1.0,
    jax.nn.softplus: 1.0,
}

# Of these operations XLA's compiler makes any number into one function.
# fmt: off
ARITHMETIC = frozenset((
    "abs", "add", "add_any", "and", "broadcast_in_dim", "convert_element_type", "copy", "copy_p",
    "cos", "custom_jvp_call", "div", "eq", "erf", "exp", "exp2", "expm1", "ge", "gt",
    "integer_pow", "jit", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne",
    "neg", "not", "or", "pjit", "pow", "rsqrt", "select_n", "sign", "sin", "sqrt", "square",
    "stop_gradient", "sub", "tanh",
))
# fmt: on


@functools.lru_cache(maxsize=128)
def is_arithmetic(activation: Activation) -> bool:
    """Whether f and its slope are made of plain arithmetic, without loops, tables and callbacks.

    One that cuts the state into layers is not.
    """
    if isinstance(activation, ByLayer):
        return False

    def value_and_slope_of(x: Array) -> Any:
        return value_and_slope(activation, x)

    program = jax.make_jaxpr(value_and_slope_of)(jax.ShapeDtypeStruct((1,), jnp.float32))
    return operations(program.jaxpr) <= ARITHMETIC


def slope_bound(activation: Activation) -> float | None:
    """The largest |f'(x)| over all x, and over all layers; None where it is not known."""
    if isinstance(activation, ByLayer):
        bounds = [slope_bound(function) for function in activation.functions]
        known = [bound for bound in bounds if bound is not None]
        return max(known) if len(known) == len(bounds) else None
    if isinstance(activation, PowerLaw):
        return float(activation.gain) if activation.power == 1 else None
    return SLOPE_BOUNDS.get(activation)


def is_of_order_one(activation: Activation) -> bool:
    """Whether its values are, in all layers."""
    if isinstance(activation, ByLayer):
        return all(function in OF_ORDER_ONE for function in activation.functions)
    return activation in OF_ORDER_ONE


def value_and_slope(
    activation: Activation, preactivation: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """f(x) and f'(x) of an elementwise f: one forward-mode derivative in the direction of ones."""
    return jax.jvp(activation, (preactivation,), (jnp.ones_like(preactivation),))


def accurate_slope(
    activation: Activation, preactivation: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """f'(x) to rounding, also where the neuron is saturated.

    By `ACCURATE_SLOPES`, else by f's own rule. A function of your own whose derivative JAX loses to
    cancellation gets an accurate one by `jax.custom_jvp`.
    """
    if isinstance(activation, ByLayer):
        return activation.each(accurate_slope, preactivation)
    slope = ACCURATE_SLOPES.get(activation)
    if slope is None:
        return value_and_slope(activation, preactivation)[1]
    return slope(preactivation)


def _sigmoid_slope(x: Array) -> Array:
    """f(x) f(-x) = e/(1 + e)^2 with e = exp(-|x|).

    The derivative rule f (1 - f) loses all digits as f approaches one. This is an even function of
    x, so that the kink of |x| is in none of its derivatives.
    """
    e = jnp.exp(-jnp.abs(x))
    return e / (1 + e) ** 2


def _tanh_slope(x: Array) -> Array:
    """sech(x)^2, four times the sigmoid's slope at 2 x; the rule 1 - f^2 loses its digits."""
    return 4 * _sigmoid_slope(2 * x)


@jax.custom_jvp
def _softplus_slope(x: Array) -> Array:
    """The sigmoid. Its own slope in turn is accurate too."""
    return jax.nn.sigmoid(x)


@_softplus_slope.defjvp
def _softplus_curvature(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    return _softplus_slope(x), _sigmoid_slope(x) * tangent


# Where the rule that JAX has loses digits.
ACCURATE_SLOPES: dict[Activation, Activation] = {
    jax.nn.sigmoid: _sigmoid_slope,
    jax.lax.logistic: _sigmoid_slope,
    jnp.tanh: _tanh_slope,
    jax.lax.tanh: _tanh_slope,
    jax.nn.tanh: _tanh_slope,
    jax.nn.softplus: _softplus_slope,
}
