"""A network's weight matrices, each with the layers that it leads from and to."""

from collections.abc import Callable
from typing import Any, NamedTuple

from irnn_jax.networks.dense import Network
from irnn_jax.networks.skips import skip_ends


class Connection(NamedTuple):
    """Where a weight matrix is, and what it connects.

    Attributes:
        name: as Python finds it in the network, for instance "layers[0].lateral".
        source: the layer that it leads from, 0 for the input.
        target: the layer that it leads to; 1 is the first hidden one.
    """

    name: str
    source: int
    target: int


def map_connections(function: Callable[[Connection, Any], Any], net: Network) -> Any:
    """A `Network` with function(connection, weights) for each weight matrix; biases stay."""

    def at(name: str, source: int, target: int, weights: Any) -> Any:
        return None if weights is None else function(Connection(name, source, target), weights)

    layers = tuple(
        layer._replace(
            feedforward=at(f"layers[{i}].feedforward", i, i + 1, layer.feedforward),
            lateral=at(f"layers[{i}].lateral", i + 1, i + 1, layer.lateral),
        )
        for i, layer in enumerate(net.layers)
    )
    feedback = tuple(
        at(f"feedback[{i}]", i + 2, i + 1, weights) for i, weights in enumerate(net.feedback)
    )
    skips = net.skips and {
        key: at(f"skips[{key!r}]", *skip_ends(key), weights) for key, weights in net.skips.items()
    }
    return Network(layers=layers, feedback=feedback, skips=skips)
