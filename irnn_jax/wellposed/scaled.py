"""What the parametrisations share: a network A = P^-1 B P of blocks of layers.

Only neighbouring layers are connected, so A and B have blocks on the diagonal (lateral), below it
(feed-forward) and above it (feedback), and each free matrix comes as those blocks too.
"""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.networks.dense import Layer, Network


class LayerBlocks(NamedTuple):
    """A matrix between neurons, for the layers i = 0 (the first hidden one), 1, ...

    Attributes:
        lateral: block (i, i), (size_i, size_i).
        below: block (i+1, i), (size_{i+1}, size_i).
        above: block (i, i+1), (size_i, size_{i+1}).
    """

    lateral: tuple[Float[Array, "size size"], ...]
    below: tuple[Float[Array, "above size"], ...]
    above: tuple[Float[Array, "size above"], ...]


class ScaledNetwork(eqx.Module):
    """Free parameters of a network with A = P^-1 B P; subclasses say what B is.

    log P = scale_limit tanh(p) is bounded: whatever the optimiser does, P cannot make the flow
    arbitrarily stiff.

    Attributes:
        feedforward: Q of the first layer, (size, inputs); the others are part of A.
        bias: T of each layer, (size,).
        scale: p of each layer, (size,).
        scale_limit: largest |log P|; static.
    """

    feedforward: Float[Array, "size inputs"]
    bias: tuple[Float[Array, " _"], ...]
    scale: tuple[Float[Array, " _"], ...]
    scale_limit: float = eqx.field(static=True)

    @abc.abstractmethod
    def scaled_connections(self) -> LayerBlocks:
        """B = P A P^-1."""

    def scales(self) -> tuple[Float[Array, " _"], ...]:
        """The diagonal of P, layer by layer."""
        return tuple(jnp.exp(self.scale_limit * jnp.tanh(p)) for p in self.scale)

    def network(self) -> Network:
        """The network of the weights A = P^-1 B P, Q and T."""
        P, B = self.scales(), self.scaled_connections()

        def unscaled(block: Array, to: int, of: int) -> Array:
            return block * P[of] / P[to][:, None]

        feedforward = (self.feedforward, *(unscaled(b, i + 1, i) for i, b in enumerate(B.below)))
        layers = tuple(
            Layer(feedforward=Q, lateral=unscaled(W, i, i), bias=T)
            for i, (Q, W, T) in enumerate(zip(feedforward, B.lateral, self.bias, strict=True))
        )
        feedback = tuple(unscaled(b, i, i + 1) for i, b in enumerate(B.above))
        return Network(layers=layers, feedback=feedback)

    def groups(self) -> Any:
        """The groups of `adam`: all that makes A is "lateral"."""

        def group(path: Any, _: Any) -> str:
            return path[0].name if path[0].name in ("feedforward", "bias") else "lateral"

        return jax.tree_util.tree_map_with_path(group, self)


def scale_parameters(
    log_ratios: list[Float[Array, ""]], drawn: Network, scale_limit: float
) -> tuple[Array, ...]:
    """The p of layers that follow each other by log(P_{i+1} / P_i), around the middle of all.

    Args:
        log_ratios: one a pair of neighbours, ().
        drawn: the network, for its sizes.
        scale_limit: the limit, larger than half the sum of all |log_ratios|.
    """
    logs = [jnp.zeros((), drawn.layers[0].bias.dtype)]
    for ratio in log_ratios:
        logs.append(logs[-1] + ratio)
    # A factor of all of P changes nothing.
    ends = jnp.stack(logs)
    middle = (jnp.max(ends) + jnp.min(ends)) / 2
    return tuple(
        jnp.full_like(layer.bias, jnp.arctanh((log - middle) / scale_limit))
        for log, layer in zip(logs, drawn.layers, strict=True)
    )


def refuse_skips(drawn: Network, parametrization: str) -> None:
    """Raise a ValueError for a network in which other layers than neighbours are connected."""
    if drawn.skips:
        raise ValueError(
            f"{parametrization} connects neighbouring layers only, and takes no network with "
            f"skips, got {sorted(drawn.skips)}"
        )


def check_positive_and_finite(**fields: float) -> None:
    """Raise a ValueError that names the first field that is not a positive number."""
    for name, value in fields.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}")
