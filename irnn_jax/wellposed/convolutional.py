"""Convolutional networks with one equilibrium for every input, by a bound on their kernels.

A convolution of a plane is multiplied, at each frequency, by its symbol, the matrix between
channels K(t) = sum_j K_j exp(-i j.t), so that its 2-norm is max_t |K(t)|; zeros beyond the edges, a
stride, and going back with one (its transpose) make a norm no larger. With s = (1 - m)/L, L the
largest slope, lateral kernels are scaled down to |W| <= s/2 and feedback kernels to
|Q||R| <= (s/4)^2. Layer by layer, a positive diagonal P makes of Q and R two blocks of norm
sqrt(|Q||R|) <= s/4, so that |P A P^-1| <= s/2 + s/4 + s/4 and f(A Y + b) is a contraction by
1 - m in the norm |P Y| (docs/wellposed.md).
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.networks.convolutional import ConvNetwork
from irnn_jax.networks.groups import parameter_groups
from irnn_jax.wellposed.scaled import check_positive_and_finite

# Frequencies for each degree of the symbol, at which it is looked at.
FREQUENCIES = 8
# The norm of M is at most the 2^(5 + 1)-th root of the trace of (M^H M)^(2^5): 3 % above it for
# eight channels.
SQUARINGS = 5


def kernel_norm(kernel: Float[Array, "height width below channels"]) -> Float[Array, ""]:
    """An upper bound of the 2-norm of a convolution, for images of any size; differentiable.

    A trigonometric polynomial of degree d, seen at N > 2 d points, is nowhere larger than its
    largest value there over cos(pi d/N) (Ehlich and Zeller, "Schwankung von Polynomen zwischen
    Gitterpunkten", Math. Z. 86, 1964).
    """
    numbers = [max(1, FREQUENCIES * (side - 1)) for side in kernel.shape[:2]]
    # Shifted to the middle, exponents are at most (side - 1)/2; a shift changes no norm.
    slack = math.prod(
        1 / math.cos(math.pi * (side - 1) / 2 / n)
        for side, n in zip(kernel.shape[:2], numbers, strict=True)
    )
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(kernel)))
    scale = jnp.where(scale > 0, scale, 1)
    symbols = jnp.fft.fft2(kernel / scale, s=tuple(numbers), axes=(0, 1))
    symbols = symbols.reshape(-1, *kernel.shape[2:])
    if kernel.shape[2] < kernel.shape[3]:
        symbols = jnp.swapaxes(symbols, 1, 2)
    return slack * scale * jnp.max(_norm_bound(symbols))


def _norm_bound(matrices: Array) -> Array:
    """At least the 2-norm of each, (count, n, m): a root of the trace of G^(2^k), G = M^H M."""
    power = jnp.conj(jnp.swapaxes(matrices, 1, 2)) @ matrices
    log = jnp.zeros(len(power), power.real.dtype)
    for number in range(SQUARINGS + 1):
        trace = jnp.sum(jnp.diagonal(power, axis1=1, axis2=2).real, axis=1)
        # Divided out, and kept: powers would leave the numbers' range.
        log = log + jnp.log(jnp.where(trace > 0, trace, 1)) / 2**number
        power = power / jnp.where(trace > 0, trace, 1)[:, None, None]
        power = power @ power
    nothing = jnp.all(matrices == 0, axis=(1, 2))
    return jnp.where(nothing, 0, jnp.exp(log / 2))


class CertifiedConvNetwork(eqx.Module):
    """The free kernels of a `conv.Certified` network.

    Attributes:
        free: a network, whose lateral and feedback kernels are scaled down where they must be.
        bound: (1 - m)/L; static.
    """

    free: ConvNetwork
    bound: float = eqx.field(static=True)

    def network(self) -> ConvNetwork:
        """The kernels that are used."""
        net, s = self.free, self.bound
        share = s / 2 if any(R is not None for R in net.feedback) else s
        layers = tuple(
            layer
            if layer.lateral is None
            else layer._replace(lateral=_within(layer.lateral, share, kernel_norm(layer.lateral)))
            for layer in net.layers
        )
        feedback = tuple(
            None if R is None else _within(R, (s / 4) ** 2, kernel_norm(R) * kernel_norm(Q))
            for R, Q in zip(
                net.feedback, [layer.feedforward for layer in net.layers[1:]], strict=False
            )
        )
        return eqx.tree_at(
            lambda n: (n.layers, n.feedback), net, (layers, feedback), is_leaf=lambda x: x is None
        )

    def groups(self) -> Any:
        """Those of the kernels."""
        return CertifiedConvNetwork(free=parameter_groups(self.free), bound=self.bound)


def _within(kernel: Array, largest: float, norm: Array) -> Array:
    """Scaled down until the norm, which grows with the kernel, is no larger."""
    return kernel / jnp.maximum(1, norm / largest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CertifiedConv:
    """A unique, globally attracting equilibrium for every image: `conv.init(parametrization=)`.

    Attributes:
        margin: m in (0, 1): plain iteration comes closer by this share a step, in the norm |P Y|.
        slope_bound: L, the activations' largest slope: 1/4 for the sigmoid, 1 for tanh and relu.
    """

    margin: float = 0.05
    slope_bound: float = 0.25

    def __post_init__(self):
        if not 0 < self.margin < 1:
            raise ValueError(f"margin must be between 0 and 1, got {self.margin}")
        check_positive_and_finite(slope_bound=self.slope_bound)

    def start(self, drawn: ConvNetwork) -> CertifiedConvNetwork:
        """The network as it is drawn, whose recurrent kernels are zero."""
        return CertifiedConvNetwork(free=drawn, bound=(1 - self.margin) / self.slope_bound)
