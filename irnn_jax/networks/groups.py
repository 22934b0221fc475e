"""The groups of parameters that an optimiser may treat apart (section 3.5)."""

from typing import Any

from irnn_jax.networks.dense import Network, NetworkLike
from irnn_jax.networks.wiring import Connection, map_connections

GROUPS = ("feedforward", "lateral", "feedback", "bias", "readout")


def parameter_groups(net: NetworkLike) -> Any:
    """The name of each parameter's group, in a pytree like `net`.

    Skips forward are in "feedforward", skips back in "feedback".
    """
    if not isinstance(net, Network):
        return net.groups()

    def group(connection: Connection, weights: Any) -> str:
        del weights
        if connection.source == connection.target:
            return "lateral"
        return "feedforward" if connection.source < connection.target else "feedback"

    named = map_connections(group, net)
    return named._replace(layers=tuple(layer._replace(bias="bias") for layer in named.layers))
