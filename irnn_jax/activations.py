"""Activation functions: their slope, and the check that they are elementwise."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from irnn_jax.xla.rewrite import operations

Activation = Callable[[Array], Array]


# Of the activations for which it is known, the largest |f'|.
SLOPE_BOUNDS: dict[Activation, float] = {
    jax.nn.sigmoid: 0.25,
    jax.lax.logistic: 0.25,
    jnp.tanh: 1.0,
    jax.lax.tanh: 1.0,
    jax.nn.tanh: 1.0,
}


# Activations whose values are of order one, whatever the units of what drives them.
OF_ORDER_ONE = frozenset(SLOPE_BOUNDS)

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
    """Whether f and its slope are made of plain arithmetic, without loops, tables and callbacks."""

    def value_and_slope_of(x: Array) -> Any:
        return value_and_slope(activation, x)

    program = jax.make_jaxpr(value_and_slope_of)(jax.ShapeDtypeStruct((1,), jnp.float32))
    return operations(program.jaxpr) <= ARITHMETIC


def slope_bound(activation: Activation) -> float | None:
    """The largest |f'(x)| over all x, None where it is not known."""
    return SLOPE_BOUNDS.get(activation)


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


# Where the rule that JAX has loses digits.
ACCURATE_SLOPES: dict[Activation, Activation] = {
    jax.nn.sigmoid: _sigmoid_slope,
    jax.lax.logistic: _sigmoid_slope,
    jnp.tanh: _tanh_slope,
    jax.lax.tanh: _tanh_slope,
    jax.nn.tanh: _tanh_slope,
}


@functools.lru_cache(maxsize=128)
def check_elementwise(activation: Activation) -> None:
    """Raise a ValueError unless `activation` treats every neuron by itself.

    A softmax, say, couples the neurons: its Jacobian is not diagonal and every formula of the
    library would be silently wrong. A function is caught when its value at one neuron changes with
    the others, tried at trace time on a few numbers, once per function.
    """
    if activation in SLOPE_BOUNDS:
        return
    name = getattr(activation, "__name__", repr(activation))
    points = np.array([-2.3, -0.4, 0.1, 0.7, 3.1], np.float32)

    def tried() -> tuple[np.ndarray, list[np.ndarray]]:
        with jax.ensure_compile_time_eval():
            together = np.asarray(activation(jnp.asarray(points)))
            return together, [
                np.asarray(activation(jnp.asarray(points[i : i + 1]))) for i in range(5)
            ]

    try:
        if jax.sharding.get_abstract_mesh().manual_axes:
            # Inside of `jax.shard_map` nothing is evaluated but in a thread that is not.
            with concurrent.futures.ThreadPoolExecutor(1) as outside:
                together, alone = outside.submit(tried).result()
        else:
            together, alone = tried()
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(
            f"activation {name} closes over traced values, so it is not a fixed function of its "
            "input; move what is learned into the network's weights"
        ) from error
    if together.shape != points.shape or any(a.shape != (1,) for a in alone):
        raise ValueError(
            f"activation {name} must be elementwise, but maps shape (5,) to {together.shape}"
        )
    if not np.allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-6, equal_nan=True):
        raise ValueError(
            f"activation {name} must be elementwise, but its value at one neuron depends on the "
            "other neurons"
        )
