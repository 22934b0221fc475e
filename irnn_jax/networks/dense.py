"""Networks with lateral and feedback weights, and how they become one matrix and one drive.

Stack the activities of all layers, from the first hidden layer to the output, into one state Y.
For two layers (section 3.2; hidden l2, output l1):

    A = [[W_l2, R], [Q_l1, W_l1]],    b(x) = [Q_l2 x + T_l2, T_l1],    Y = f(A Y + b).
"""

from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from irnn_jax.linalg.dense import matmul
from irnn_jax.networks.skips import checked_skip_ends, skip_ends


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
        skips: weights between layers that are no neighbours, by "source->target", where 0 is the
            input, 1 the first hidden layer, and so on to the output: skips["0->2"], (size of 2,
            inputs), leads from the input to the second layer, and skips["3->1"] back from the
            third to the first. None for none.
    """

    layers: tuple[Layer, ...]
    feedback: tuple[Float[Array, "size above"] | None, ...] = ()
    skips: dict[str, Float[Array, "target source"] | None] | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """(inputs, hidden..., outputs)."""
        first = self.layers[0].feedforward.shape[-1]
        return (first, *(layer.bias.shape[-1] for layer in self.layers))

    @property
    def is_recurrent(self) -> bool:
        """Whether any weights lead from a layer to itself or back."""
        lateral = (layer.lateral for layer in self.layers)
        back = any(source > target for (source, target), _ in present_skips(self))
        return back or any(weights is not None for weights in (*lateral, *self.feedback))


def present_skips(net: Network) -> list[tuple[tuple[int, int], Array]]:
    """((source, target), weights) of each skip that is there."""
    skips = net.skips or {}
    return [(skip_ends(key), weights) for key, weights in skips.items() if weights is not None]


@runtime_checkable
class ParametrizedNetwork(Protocol):
    """A pytree of free parameters that stands for a network; see `irnn_jax.wellposed`."""

    def network(self) -> Any:
        """The weights that the free parameters stand for, differentiable in them.

        A `Network`, or one that is solved as a cell (`CellNetwork`).
        """
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
    if net.skips is not None and not isinstance(net.skips, dict):
        raise ValueError(
            f"skips is a {type(net.skips).__name__}, but a dict is expected: {{'0->2': weights}}"
        )
    for key, weights in (net.skips or {}).items():
        source, target = checked_skip_ends(key, len(net.layers))
        expected.append((f"skips[{key!r}]", weights, (sizes[target], sizes[source])))
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
    for (source, target), weights in present_skips(net):
        if source > 0:
            blocks[target - 1][source - 1] = weights.astype(dtype)
    return jnp.block(cast(Any, blocks))


def drive(net: Network, x: Float[Array, "batch inputs"]) -> Float[Array, "batch n"]:
    """b(x) = Q x + T: what the input, by skips too, and the biases contribute to each neuron."""
    first, *rest = net.layers
    dtype = x.dtype
    parts = [matmul(x, first.feedforward.astype(dtype).T) + first.bias.astype(dtype)[None]]
    biases = [layer.bias.astype(dtype) for layer in rest]
    parts += [jnp.broadcast_to(bias, (x.shape[0], bias.size)) for bias in biases]
    for (source, target), weights in present_skips(net):
        if source == 0:
            parts[target - 1] = parts[target - 1] + matmul(x, weights.astype(dtype).T)
    return jnp.concatenate(parts, axis=-1)


def split_layers(
    net: Network, state: Float[Array, "*batch n"]
) -> tuple[Float[Array, "*batch _"], ...]:
    """Cut a stacked state back into layers."""
    boundaries = [sum(net.sizes[1:i]) for i in range(2, len(net.sizes))]
    return tuple(jnp.split(state, boundaries, axis=-1))


def feedforward_mask(sizes: tuple[int, ...]) -> np.ndarray:
    """Which entries of A lead from a layer to a later one: the blocks below the diagonal."""
    layer = np.repeat(np.arange(len(sizes)), sizes)
    return layer[:, None] > layer[None, :]
