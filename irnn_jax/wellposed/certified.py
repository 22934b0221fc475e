"""Networks with exactly one equilibrium, which attracts every trajectory, by construction.

    A = P^-1 ((1 - m)/L I - V^T V + U - U^T) P

Whatever V, U and P are, the symmetric part of P A P^-1 stays below (1 - m)/L, L the largest slope
of the activation: the condition of `irnn_jax.certify`, proven in docs/wellposed.md. And every A
that meets the condition with this P is reached: V^T V is any positive semi-definite matrix.
"""

import dataclasses
import itertools
import math

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from irnn_jax.linalg.dense import matmul
from irnn_jax.networks.dense import Network
from irnn_jax.wellposed.scaled import (
    LayerBlocks,
    ScaledNetwork,
    check_positive_and_finite,
    refuse_skips,
    scale_parameters,
)

# How much of (1 - m)/L the drawn weights may use up: V is then far from singular.
SHARE = 0.9
# The paper draws from [-0.5, 0.5].
LARGEST_DRAWN = 0.5
# How much of `scale_limit` a larger draw may use up: log P is then where tanh is far from flat.
USABLE = 0.5


class CertifiedNetwork(ScaledNetwork):
    """The free parameters of a `Certified` network.

    V has blocks on and above the diagonal: a positive semi-definite matrix between neighbouring
    layers has a Cholesky factor of this shape, so nothing is lost.

    Attributes:
        factor: block (i, i) of V, (size_i, size_i).
        factor_above: block (i, i+1) of V, (size_i, size_{i+1}).
        rotation: block (i, i) of U, (size_i, size_i).
        rotation_below: block (i+1, i) of U, (size_{i+1}, size_i).
        bound: (1 - m)/L; static.
    """

    factor: tuple[Float[Array, "_ _"], ...]
    factor_above: tuple[Float[Array, "_ _"], ...]
    rotation: tuple[Float[Array, "_ _"], ...]
    rotation_below: tuple[Float[Array, "_ _"], ...]
    bound: float = eqx.field(static=True)

    def scaled_connections(self) -> LayerBlocks:
        """B = (1 - m)/L I - V^T V + U - U^T."""
        lateral, below, above = [], [], []
        for i, (V, U) in enumerate(zip(self.factor, self.rotation, strict=True)):
            W = self.bound * jnp.eye(len(V), dtype=V.dtype) - matmul(V.T, V) + U - U.T
            if i > 0:
                W = W - matmul(self.factor_above[i - 1].T, self.factor_above[i - 1])
            lateral.append(W)
        blocks = zip(self.factor, self.factor_above, self.rotation_below, strict=False)
        for V, V_above, U_below in blocks:
            below.append(U_below - matmul(V_above.T, V))
            above.append(-matmul(V.T, V_above) - U_below.T)
        return LayerBlocks(lateral=tuple(lateral), below=tuple(below), above=tuple(above))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certified:
    """A unique, globally attracting equilibrium for every input: `init(..., parametrization=)`.

    Drawn with W = R = 0, and the same Q and T as without a parametrisation. Layers so wide that
    this would break the bound get a smaller P than the layer before. Where P has no room for that,
    which the paper's draw never meets, the feed-forward weights between neurons start smaller.

    Attributes:
        margin: m in (0, 1), how far the network stays from the edge, as `certify` measures it.
        slope_bound: L, the activation's largest slope: 1/4 for the sigmoid, 1 for tanh.
        scale_limit: how far log P may go beyond what drawn weights may need for these sizes.
    """

    margin: float = 0.05
    slope_bound: float = 0.25
    scale_limit: float = 1.0

    def __post_init__(self):
        if not 0 < self.margin < 1:
            raise ValueError(f"margin must be between 0 and 1, got {self.margin}")
        check_positive_and_finite(slope_bound=self.slope_bound, scale_limit=self.scale_limit)

    def start(self, drawn: Network) -> CertifiedNetwork:
        """V and U such that W = R = 0: U - U^T and V^T V are the two parts of P A P^-1."""
        refuse_skips(drawn, "Certified")
        bound = (1 - self.margin) / self.slope_bound
        room = self._room(drawn.sizes, SHARE * bound)
        limit = self.scale_limit + room
        between = [layer.feedforward for layer in drawn.layers[1:]]
        # Neighbours in B: r Q with |r Q| <= SHARE * bound. In the symmetric part each layer meets
        # half of that from below and half from above, so the bound is never reached.
        norms = [jnp.linalg.norm(Q, 2) for Q in between]
        ratios = [jnp.minimum(1, SHARE * bound / jnp.where(s > 0, s, 1)) for s in norms]
        scaled = [r * Q for r, Q in zip(ratios, between, strict=True)]
        log_ratios = _within(room + USABLE * self.scale_limit, [jnp.log(r) for r in ratios])

        factor, factor_above = [], []
        for i, layer in enumerate(drawn.layers):
            square = bound * jnp.eye(layer.bias.size, dtype=layer.bias.dtype)
            if i > 0:
                square = square - matmul(factor_above[-1].T, factor_above[-1])
            V = jnp.linalg.cholesky(square).T
            factor.append(V)
            if i < len(scaled):
                factor_above.append(solve_triangular(V, -scaled[i].T / 2, trans=1))
        return CertifiedNetwork(
            feedforward=drawn.layers[0].feedforward,
            bias=tuple(layer.bias for layer in drawn.layers),
            scale=scale_parameters(log_ratios, drawn, limit),
            scale_limit=limit,
            factor=tuple(factor),
            factor_above=tuple(factor_above),
            rotation=tuple(jnp.zeros_like(V) for V in factor),
            rotation_below=tuple(Q / 2 for Q in scaled),
            bound=bound,
        )

    def _room(self, sizes: tuple[int, ...], largest: float) -> float:
        """Half of what the logarithms of all layers' ratios sum up to, for the worst draw."""
        room = 0.0
        for below, size in itertools.pairwise(sizes[1:]):
            worst = LARGEST_DRAWN * (below * size) ** 0.5
            room += max(0.0, math.log(worst / largest)) / 2
        return room


def _within(largest: float, log_ratios: list[Float[Array, ""]]) -> list[Float[Array, ""]]:
    """All times the same number, so that half of their sum, none positive, is at most `largest`."""
    half = jnp.asarray(-sum(log_ratios) / 2)
    return [log * jnp.minimum(1, largest / jnp.where(half > 0, half, 1)) for log in log_ratios]
