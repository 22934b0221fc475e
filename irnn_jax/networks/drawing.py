"""Networks as they are drawn, by default as in the paper."""

import itertools
from collections.abc import Sequence
from typing import Any, overload

import chex
import jax
import jax.numpy as jnp
import numpy as np

from irnn_jax.networks.dense import (
    Layer,
    Network,
    NetworkLike,
    Parametrization,
    ParametrizedNetwork,
)
from irnn_jax.networks.initialization import find_initialization
from irnn_jax.networks.skips import checked_skip_ends

# Keys of skips come from here on, far from those that the layers split off.
SKIPS = 2**30


@overload
def init(
    key: chex.PRNGKey,
    sizes: tuple[int, ...],
    *,
    recurrent: bool = True,
    skips: Sequence[str] = (),
    dtype: Any = None,
    initialization: str = "paper",
    parametrization: None = None,
) -> Network: ...


@overload
def init(
    key: chex.PRNGKey,
    sizes: tuple[int, ...],
    *,
    recurrent: bool = True,
    skips: Sequence[str] = (),
    dtype: Any = None,
    initialization: str = "paper",
    parametrization: Parametrization,
) -> ParametrizedNetwork: ...


def init(
    key: chex.PRNGKey,
    sizes: tuple[int, ...],
    *,
    recurrent: bool = True,
    skips: Sequence[str] = (),
    dtype: Any = None,
    initialization: str = "paper",
    parametrization: Parametrization | None = None,
) -> NetworkLike:
    """Draw a network, by default as the paper does (sections 3.1, 3.2).

    Q and T uniform in [-0.5, 0.5], W and R zero. The feed-forward twin of the same key has the
    same Q and T, and so has the parametrised network.

    Deep and wide networks learn from another start: with `fan_in` the size of the layer below and
    `fan_out` that of the layer itself,

        "paper"     Q and T uniform in [-1/2, 1/2]
        "glorot"    Q uniform in [-l, l], l^2 = 6/(fan_in + fan_out),    T = 0
        "lecun"     Q normal with variance 1/fan_in,                     T = 0

    Args:
        key: a JAX random key.
        sizes: (inputs, hidden..., outputs), at least two positive numbers; (2, 2) is one layer.
        recurrent: False for the feed-forward twin, which has no W and no R.
        skips: connections beyond neighbours, such as ("0->2", "3->1"), see `Network`. Those
            forward are drawn like Q, each the same whatever the others are; those back are zero.
        dtype: a floating-point dtype; None: JAX's default.
        initialization: "paper", "glorot" or "lecun".
        parametrization: for instance `irnn_jax.Certified()`; None: the weights are the parameters.

    Raises:
        ValueError: bad sizes or skips, a dtype that is not floating, float64 while
            `jax_enable_x64` is off, an unknown initialisation, or a parametrisation of a
            feed-forward network.
    """
    if parametrization is not None and not recurrent:
        raise ValueError("a feed-forward network has no recurrent weights to parametrise")
    sizes = _checked_sizes(sizes)
    dtype = checked_dtype(dtype)
    draw = find_initialization(initialization)

    layers = []
    keys = jax.random.split(key, (len(sizes) - 1, 2))
    for (weight_key, bias_key), (below, size) in zip(keys, itertools.pairwise(sizes), strict=True):
        layers.append(
            Layer(
                feedforward=draw.feedforward(weight_key, (size, below), dtype),
                lateral=jnp.zeros((size, size), dtype) if recurrent else None,
                bias=draw.bias(bias_key, (size,), dtype),
            )
        )
    pairs = itertools.pairwise(sizes[1:]) if recurrent else ()
    feedback = tuple(jnp.zeros((size, above), dtype) for size, above in pairs)
    drawn: dict[str, Any] = {}
    for name, (source, target) in _checked_skips(skips, sizes, recurrent).items():
        shape = sizes[target], sizes[source]
        own = jax.random.fold_in(jax.random.fold_in(key, SKIPS + source), target)
        forward = source < target
        drawn[name] = draw.feedforward(own, shape, dtype) if forward else jnp.zeros(shape, dtype)
    net = Network(layers=tuple(layers), feedback=feedback, skips=drawn or None)
    return net if parametrization is None else parametrization.start(net)


def checked_dtype(dtype: Any) -> jnp.dtype:
    """The dtype, or JAX's default float; a ValueError where JAX would silently narrow it."""
    if dtype is None:
        return jnp.zeros(()).dtype
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    if dtype == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "float64 was asked for, but JAX has it switched off; call "
            'jax.config.update("jax_enable_x64", True) at the start of your program'
        )
    return dtype


def _checked_sizes(sizes: tuple[int, ...]) -> tuple[int, ...]:
    sizes = tuple(sizes)
    if len(sizes) < 2:
        raise ValueError(f"sizes must be (inputs, hidden..., outputs), at least 2, got {sizes}")
    return positive_integers("sizes", sizes)


def positive_integers(name: str, sizes: tuple[Any, ...]) -> Any:
    """The sizes as integers of Python, or a ValueError that names them."""
    sizes = tuple(sizes)
    for size in sizes:
        integer = isinstance(size, int | np.integer) and not isinstance(size, bool)
        if not integer or size < 1:
            raise ValueError(f"{name} must be positive integers, got {sizes}")
    return tuple(int(size) for size in sizes)


def _checked_skips(
    skips: Sequence[str], sizes: tuple[int, ...], recurrent: bool
) -> dict[str, tuple[int, int]]:
    """Source and target of each."""
    if isinstance(skips, str):
        raise ValueError(f"skips must be a tuple of keys, as ('0->2',), got {skips!r}")
    ends = {key: checked_skip_ends(key, len(sizes) - 1) for key in skips}
    for key, (source, target) in ends.items():
        if source > target and not recurrent:
            raise ValueError(f"a feed-forward network has no way back, but skips has {key!r}")
    return ends
