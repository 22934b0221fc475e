"""Networks whose flow descends an energy, so that it always comes to rest.

    A = P^-1 S P,    S symmetric

Then diag(P^2) A is symmetric, as in Hopfield's networks, and for a strictly increasing activation
the flow has no limit cycles; docs/wellposed.md states the energy. There may be many equilibria.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.networks.dense import Network
from irnn_jax.wellposed.scaled import (
    LayerBlocks,
    ScaledNetwork,
    check_positive_and_finite,
    refuse_skips,
    scale_parameters,
)


class SymmetricNetwork(ScaledNetwork):
    """The free parameters of a `Symmetric` network.

    Attributes:
        lateral: G, (size_i, size_i); block (i, i) of S is (G + G^T)/2.
        below: block (i+1, i) of S, (size_{i+1}, size_i).
    """

    lateral: tuple[Float[Array, "_ _"], ...]
    below: tuple[Float[Array, "_ _"], ...]

    def scaled_connections(self) -> LayerBlocks:
        """S."""
        return LayerBlocks(
            lateral=tuple((G + G.T) / 2 for G in self.lateral),
            below=self.below,
            above=tuple(block.T for block in self.below),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Symmetric:
    """A flow that always comes to rest: `init(..., parametrization=)`.

    Drawn as the paper draws, W = 0 and the same Q and T as without a parametrisation, but for the
    feedback: symmetry forces R = c Q^T with a positive c.

    Attributes:
        feedback: c; P starts with P_{i+1} / P_i = sqrt(c).
        scale_limit: how far log P may go beyond where it starts.
    """

    feedback: float = 1.0
    scale_limit: float = 1.0

    def __post_init__(self):
        check_positive_and_finite(feedback=self.feedback, scale_limit=self.scale_limit)

    def start(self, drawn: Network) -> SymmetricNetwork:
        """S such that W = 0 and the feed-forward weights are the drawn ones."""
        refuse_skips(drawn, "Symmetric")
        log_ratio = math.log(self.feedback) / 2
        between = [layer.feedforward for layer in drawn.layers[1:]]
        limit = self.scale_limit + abs(log_ratio) * len(between) / 2
        dtype = drawn.layers[0].bias.dtype
        ratios = [jnp.asarray(log_ratio, dtype) for _ in between]
        return SymmetricNetwork(
            feedforward=drawn.layers[0].feedforward,
            bias=tuple(layer.bias for layer in drawn.layers),
            scale=scale_parameters(ratios, drawn, limit),
            scale_limit=limit,
            lateral=tuple(
                jnp.zeros((layer.bias.size, layer.bias.size), dtype) for layer in drawn.layers
            ),
            below=tuple(math.exp(log_ratio) * Q for Q in between),
        )
