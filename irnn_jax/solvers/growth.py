"""What the flow may have made of errors on the way: whether a solver may have been led astray.

The velocity F(Y(t)) is itself a solution of the flow's variational equation, d v/dt = (J - I) v: a
small disturbance grows along the path as it does. Where the flow passes an unstable equilibrium it
slows down, and what decides about its way from there is as small as the velocity is. If the
velocity grows again, all that was wrong before has grown with it: errors e(s) until then were as
good as e(s)/|F(s)| of what decided.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Numbers = Float[Array, "*numbers"]

TINY = float(jnp.finfo(jnp.float32).tiny)
# By rounding a velocity may grow without having passed anything.
REGROWN = 1.02


class Growth(NamedTuple):
    """What is known of each sample's way, in float32.

    Attributes:
        scale: the largest max|g(Y)|, and max|Y(0)|: of a step that leads far away it is not large.
        largest: the largest error of a step; at first what steps lose to rounding.
        least: |F| where the velocity was least, since it has grown last.
        decided: the largest error until then, over that.
        astray: the largest of these after which the velocity has grown again.
    """

    scale: Numbers
    largest: Numbers
    least: Numbers
    decided: Numbers
    astray: Numbers

    @classmethod
    def begin(cls, value: Numbers, size: Numbers, speed: Numbers, dtype: Any) -> "Growth":
        """Where the flow begins: max|g|, max|Y|, max|F|, and what steps are computed in."""
        size, speed = jnp.maximum(_single(value), _single(size)), _single(speed)
        zeros = jnp.zeros_like(speed)
        return cls(
            scale=jnp.maximum(size, TINY),
            largest=4 * float(jnp.finfo(dtype).eps) * size,
            least=speed,
            decided=zeros,
            astray=zeros,
        )

    def seen(self, value: Numbers) -> "Growth":
        """With a step to where max|g| is this."""
        value = _single(value)
        # NaN compares false.
        return self._replace(scale=jnp.where(value > self.scale, value, self.scale))

    def after(self, error: Numbers, speed: Numbers, followed: Bool[Array, "*numbers"]) -> "Growth":
        """After a step with this error, to where max|F| is `speed`, of those who `followed`."""
        speed = jnp.maximum(_single(speed), TINY)
        largest = jnp.maximum(self.largest, _single(error))
        grown = speed / jnp.maximum(self.least, TINY)
        regrown = grown > REGROWN
        decided = jnp.maximum(self.decided, _single(error) / jnp.maximum(self.least, TINY))
        astray = jnp.where(regrown, jnp.maximum(self.astray, decided), self.astray)
        here = regrown | (grown < 1)
        then = Growth(
            scale=self.scale,
            largest=largest,
            least=jnp.where(here, speed, self.least),
            decided=jnp.where(here, largest / speed, self.decided),
            astray=astray,
        )
        return jax.tree.map(lambda new, old: jnp.where(followed, new, old), then, self)

    def error(self) -> Numbers:
        """Of the way, relative to the state, or to what decided about it."""
        return jnp.maximum(self.largest / self.scale, self.astray)


def _single(numbers: Numbers) -> Numbers:
    """Decides about steps only, and is no function to differentiate."""
    return jax.lax.stop_gradient(numbers).astype(jnp.float32)
