"""The supralinear transfer function of cortical circuit models."""

import dataclasses
import math
import numbers

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """f(u) = k [u]_+^n, with [u]_+ = max(u, 0): the stabilised supralinear network.

    Its slope is k n [u]_+^(n-1), and 0 at u = 0, also for n = 1, as that of `jax.nn.relu`. No
    derivative of it is NaN. After Ahmadian, Rubin and Miller, "Analysis of the stabilized
    supralinear network", Neural Computation 25 (2013).

    Attributes:
        gain: k, positive.
        power: n, at least 1.
    """

    gain: float | int = 1.0
    power: float | int = 2.0

    def __post_init__(self):
        for name, value in (("gain", self.gain), ("power", self.power)):
            if not isinstance(value, numbers.Real) or isinstance(value, bool):
                raise ValueError(f"{name} must be a number, got {value!r}")
        if not 0 < self.gain < math.inf:
            raise ValueError(f"gain must be positive, got {self.gain}")
        if not 1 <= self.power < math.inf:
            raise ValueError(f"power must be at least 1, got {self.power}")

    @property
    def __name__(self) -> str:
        """As messages call it."""
        return repr(self)

    def __call__(self, u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The rate k [u]_+^n."""
        # The power of a number that is not positive has derivatives of NaN, masked or not. What is
        # not a number compares false, and stays so.
        base = jnp.where(u <= 0, 1, u)
        return jnp.where(u <= 0, 0, float(self.gain) * base ** float(self.power))
