"""Networks with lateral and feedback weights, and how they become one matrix and one drive.

Stack the activities of all layers, from the first hidden layer to the output, into one state Y.
For two layers (section 3.2; hidden l2, output l1):

    A = [[W_l2, R], [Q_l1, W_l1]],    b(x) = [Q_l2 x + T_l2, T_l1],    Y = f(A Y + b).
"""

import itertools
from typing import Any, NamedTuple, Protocol, cast, overload, runtime_checkable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from irnn_jax.linalg.dense import matmul
from irnn_jax.networks.initialization import find_initialization


class Layer(NamedTuple):
    """One layer's weights.

    Attributes:
        feedforward: Q, (size, size of the layer below), or (size, inputs) in the first layer.
        lateral: W, (size, size), from the layer to itself; None for no lateral weights.
        bias: T, (size,).
    """

    feedforward: Float[Array, "size below"]
    lateral: Float[Array, "size size"] | None
    bias: Float[Array, " size"]


class Network(NamedTuple):
    """All weights of a network, a pytree.

    Attributes:
        layers: from the first hidden layer to the output.
        feedback: feedback[i] is R, (size_i, size_{i+1}), from layer i+1 back to layer i; None, or
            an empty tuple, for none.
    """

    layers: tuple[Layer, ...]
    feedback: tuple[Float[Array, "size above"] | None, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """(inputs, hidden..., outputs)."""
        first = self.layers[0].feedforward.shape[-1]
        return (first, *(layer.bias.shape[-1] for layer in self.layers))

    @property
    def is_recurrent(self) -> bool:
        """Whether any lateral or feedback weights are present."""
        lateral = (layer.lateral for layer in self.layers)
        return any(weights is not None for weights in (*lateral, *self.feedback))


@runtime_checkable
class ParametrizedNetwork(Protocol):
    """A pytree of free parameters that stands for a network; see `irnn_jax.wellposed`."""

    def network(self) -> Network:
        """The weights that the free parameters stand for, differentiable in them."""
        ...

    def groups(self) -> Any:
        """The name of each parameter's group, as `by_group` takes them, in a pytree like this."""
        ...


NetworkLike = Network | ParametrizedNetwork


@runtime_checkable
class Parametrization(Protocol):
    """A frozen, keyword-only, hashable dataclass with one method."""

    def start(self, drawn: Network) -> ParametrizedNetwork:
        """Free parameters for a network as `init` draws it, of which W and R are not looked at."""
        ...


def as_network(net: NetworkLike) -> Any:
    """The weights themselves: what every public function calls once, at its door.

    A `Network`, or one that is solved as a cell (`CellNetwork`).
    """
    if isinstance(net, Network):
        return net
    if not isinstance(net, ParametrizedNetwork):
        raise ValueError(
            f"net is a {type(net).__name__}, but a Network is expected, or one with a "
            "parametrisation: build it again from its weights, by irnn.Network(layers=..., "
            "feedback=...)"
        )
    return net.network()


@overload
def init(
    key: chex.PRNGKey,
    sizes: tuple[int, ...],
    *,
    recurrent: bool = True,
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
    dtype: Any = None,
    initialization: str = "paper",
    parametrization: Parametrization,
) -> ParametrizedNetwork: ...


def init(
    key: chex.PRNGKey,
    sizes: tuple[int, ...],
    *,
    recurrent: bool = True,
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
        dtype: a floating-point dtype; None: JAX's default.
        initialization: "paper", "glorot" or "lecun".
        parametrization: for instance `irnn_jax.Certified()`; None: the weights are the parameters.

    Raises:
        ValueError: bad sizes, a dtype that is not floating, float64 while `jax_enable_x64` is
            off, an unknown initialisation, or a parametrisation of a feed-forward network.
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
    net = Network(layers=tuple(layers), feedback=feedback)
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
    for size in sizes:
        integer = isinstance(size, int | np.integer) and not isinstance(size, bool)
        if not integer or size < 1:
            raise ValueError(f"sizes must be positive integers, got {sizes}")
    return tuple(int(size) for size in sizes)


def check_network(net: Network) -> None:
    """Raise a ValueError that names the first weight whose shape or dtype does not fit."""
    if not net.layers:
        raise ValueError("a network needs at least one layer")
    for i, layer in enumerate(net.layers):
        for name, weights, axes in (
            (f"layers[{i}].feedforward", layer.feedforward, 2),
            (f"layers[{i}].bias", layer.bias, 1),
        ):
            if jnp.ndim(weights) != axes:
                raise ValueError(f"{name} must have {axes} axes, got shape {jnp.shape(weights)}")
    sizes = net.sizes
    if len(net.feedback) not in (0, len(net.layers) - 1):
        raise ValueError(
            f"feedback has {len(net.feedback)} entries, but a network of {len(net.layers)} layers "
            f"takes {len(net.layers) - 1} (or none)"
        )
    expected: list[tuple[str, Any, tuple[int, ...]]] = []
    for i, layer in enumerate(net.layers):
        name = f"layers[{i}]"
        expected.append((f"{name}.feedforward", layer.feedforward, (sizes[i + 1], sizes[i])))
        expected.append((f"{name}.lateral", layer.lateral, (sizes[i + 1], sizes[i + 1])))
        expected.append((f"{name}.bias", layer.bias, (sizes[i + 1],)))
    for i, weights in enumerate(net.feedback):
        expected.append((f"feedback[{i}]", weights, (sizes[i + 1], sizes[i + 2])))
    for name, weights, shape in expected:
        if weights is None:
            continue
        if weights.shape != shape:
            raise ValueError(f"{name} has shape {weights.shape}, but {shape} fits its neighbours")
        if not jnp.issubdtype(weights.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {weights.dtype}, but weights are floating-point")


def checked_input(net: Network, x: Any) -> Float[Array, "*batch inputs"]:
    """`x` as an array that the network takes, or a ValueError in the caller's words."""
    x = jnp.asarray(x)
    inputs = net.sizes[0]
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"x has dtype {x.dtype}, but the network takes floating-point input: convert it, for "
            "example by x.astype(float)"
        )
    if x.ndim == 0:
        raise ValueError(f"x is a scalar, but the network takes an array (..., {inputs})")
    if x.shape[-1] != inputs:
        raise ValueError(f"x has {x.shape[-1]} features, but the network takes {inputs}")
    return x


def connections(net: Network, dtype: Any) -> Float[Array, "n n"]:
    """A: all weights between neurons, in blocks of layers; zero where there are none."""
    sizes = net.sizes[1:]
    blocks = [[jnp.zeros((to, of), dtype) for of in sizes] for to in sizes]
    for i, layer in enumerate(net.layers):
        if layer.lateral is not None:
            blocks[i][i] = layer.lateral.astype(dtype)
        if i > 0:
            blocks[i][i - 1] = layer.feedforward.astype(dtype)
    for i, weights in enumerate(net.feedback):
        if weights is not None:
            blocks[i][i + 1] = weights.astype(dtype)
    return jnp.block(cast(Any, blocks))


def drive(net: Network, x: Float[Array, "batch inputs"]) -> Float[Array, "batch n"]:
    """b(x) = Q x + T: what the input and the biases contribute to each neuron."""
    first, *rest = net.layers
    dtype = x.dtype
    parts = [matmul(x, first.feedforward.astype(dtype).T) + first.bias.astype(dtype)[None]]
    biases = [layer.bias.astype(dtype) for layer in rest]
    parts += [jnp.broadcast_to(bias, (x.shape[0], bias.size)) for bias in biases]
    return jnp.concatenate(parts, axis=-1)


def split_layers(
    net: Network, state: Float[Array, "*batch n"]
) -> tuple[Float[Array, "*batch _"], ...]:
    """Cut a stacked state back into layers."""
    boundaries = [sum(net.sizes[1:i]) for i in range(2, len(net.sizes))]
    return tuple(jnp.split(state, boundaries, axis=-1))


def feedforward_mask(sizes: tuple[int, ...]) -> np.ndarray:
    """Which entries of A lead from one layer to the next: the blocks below the diagonal."""
    layer = np.repeat(np.arange(len(sizes)), sizes)
    return layer[:, None] == layer[None, :] + 1
