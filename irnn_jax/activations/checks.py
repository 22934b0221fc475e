"""What a caller may pass as `activation=`, checked at the door."""

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from irnn_jax.activations.by_layer import ByLayer
from irnn_jax.activations.slopes import SLOPE_BOUNDS, Activation, value_and_slope

# One function, or one for each layer.
ActivationLike = Activation | Sequence[Activation]
Tried = TypeVar("Tried")

POINTS = np.array([-2.3, -0.4, 0.1, 0.7, 3.1], np.float32)
# Near zero and far from it: a function that is flat at all of them is flat.
SIZES = np.geomspace(1e-3, 1e3, 61)
MANY_POINTS = np.concatenate([-SIZES[::-1], SIZES, np.linspace(-4.03, 4.03, 101)])


def as_activation(activation: ActivationLike, sizes: tuple[int, ...]) -> Activation:
    """The one function of the stacked state that the caller means, checked.

    Args:
        activation: f, or a tuple with one for each layer, from the first hidden one to the output.
        sizes: the layers', likewise.

    Raises:
        ValueError: there is not one function for each layer, or one of them is not elementwise, or
            has no derivative.
    """
    if isinstance(activation, ByLayer):  # checked before
        return activation
    if not isinstance(activation, tuple | list):
        single: Any = activation
        check_activation(single)
        return single
    functions = tuple(activation)
    if len(functions) != len(sizes):
        raise ValueError(
            f"activation has {_counted(len(functions), 'entries', 'entry')}, but the network has "
            f"{_counted(len(sizes), 'layers', 'layer')}"
        )
    for function in functions:
        check_activation(function)
    if all(function == functions[0] for function in functions):
        return functions[0]
    return ByLayer(functions=functions, sizes=sizes)


def _counted(count: int, many: str, one: str) -> str:
    return f"{count} {one if count == 1 else many}"


@functools.lru_cache(maxsize=128)
def check_activation(activation: Activation) -> None:
    """Raise a ValueError unless it treats every neuron by itself, and has a derivative.

    A softmax, say, couples the neurons: its Jacobian is not diagonal and every formula of the
    library would be silently wrong. A function is caught when its value at one neuron changes with
    the others. One whose slope is zero wherever it is tried, and which yet changes, like a sign or
    a rounding, has no derivative to learn by. Tried at trace time on a few numbers, once per
    function.
    """
    if activation in SLOPE_BOUNDS:
        return
    if not callable(activation):
        raise ValueError(f"activation must be a function, or a tuple of them, got {activation!r}")
    name = getattr(activation, "__name__", repr(activation))
    _check_elementwise(activation, name)
    _check_derivative(activation, name)


def _check_elementwise(activation: Activation, name: str) -> None:
    def tried() -> tuple[np.ndarray, list[np.ndarray]]:
        together = np.asarray(activation(jnp.asarray(POINTS)))
        return together, [np.asarray(activation(jnp.asarray(POINTS[i : i + 1]))) for i in range(5)]

    together, alone = _evaluated(tried, name)
    if together.shape != POINTS.shape or any(a.shape != (1,) for a in alone):
        raise ValueError(
            f"activation {name} must be elementwise, but maps shape (5,) to {together.shape}"
        )
    if not np.allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-6, equal_nan=True):
        raise ValueError(
            f"activation {name} must be elementwise, but its value at one neuron depends on the "
            "other neurons"
        )
    if not jnp.issubdtype(together.dtype, jnp.floating):
        raise ValueError(
            f"activation {name} must return floating-point numbers, but returns {together.dtype}"
        )


def _check_derivative(activation: Activation, name: str) -> None:
    def tried() -> tuple[np.ndarray, np.ndarray]:
        value, slope = value_and_slope(activation, jnp.asarray(MANY_POINTS, jnp.float32))
        return np.asarray(value), np.asarray(slope)

    value, slope = _evaluated(tried, name)
    if np.all(slope == 0) and np.any(value != value[0]):
        raise ValueError(
            f"activation {name} is without a derivative: it changes, but its slope is zero "
            "everywhere, so that no gradient passes through it; take a smooth one, for instance "
            "jnp.tanh(10 * x) for a sign"
        )


def _evaluated(tried: Callable[[], Tried], name: str) -> Tried:
    """What is tried, as numbers, also while a program is traced."""

    def evaluated() -> Tried:
        with jax.ensure_compile_time_eval():
            return tried()

    try:
        if jax.sharding.get_abstract_mesh().manual_axes:
            # Inside of `jax.shard_map` nothing is evaluated but in a thread that is not.
            with concurrent.futures.ThreadPoolExecutor(1) as outside:
                return outside.submit(evaluated).result()
        return evaluated()
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(
            f"activation {name} closes over traced values, so it is not a fixed function of its "
            "input; move what is learned into the network's weights"
        ) from error
