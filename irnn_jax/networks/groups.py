"""The groups of a network's parameters, by which optimisers tell them apart (section 3.5)."""

from typing import Any

from irnn_jax.networks.dense import Layer, Network, NetworkLike

GROUPS = ("feedforward", "lateral", "feedback", "bias", "readout")


def parameter_groups(net: NetworkLike) -> Any:
    """The name of each parameter's group, in a pytree like `net`."""
    if not isinstance(net, Network):
        return net.groups()

    def label(weights: Any, group: str) -> Any:
        return None if weights is None else group

    return Network(
        layers=tuple(
            Layer(
                feedforward="feedforward",  # pyright: ignore[reportArgumentType]
                lateral=label(layer.lateral, "lateral"),
                bias="bias",  # pyright: ignore[reportArgumentType]
            )
            for layer in net.layers
        ),
        feedback=tuple(label(weights, "feedback") for weights in net.feedback),
    )
