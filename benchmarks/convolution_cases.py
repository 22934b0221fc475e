"""Convolutional cells to measure, as data, and what is right for them; a new one is a line.

The convolutions here are sums of products of matrices: faster in float64 than the cell's own, and
a check on it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Shapes, and `gain`: the lateral weights' standard deviation times sqrt(9 channels)."""

    channels: int
    side: int
    gain: float
    batch: int = 64
    inputs: int = 3

    @property
    def label(self) -> str:
        return f"{self.side}×{self.side}×{self.channels}, batch {self.batch}, gain {self.gain:g}"

    def draw(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        """params, x, y0 and target, representable in float32."""
        rng = np.random.default_rng(0)

        def normal(*shape, scale=1.0):
            return np.asarray(rng.normal(size=shape) * scale, np.float32).astype(np.float64)

        c, images = self.channels, (self.batch, self.side, self.side)
        params = {
            "kernel": normal(3, 3, self.inputs, c, scale=1 / np.sqrt(9 * self.inputs)),
            "lateral": normal(3, 3, c, c, scale=self.gain / np.sqrt(9 * c)),
            "bias": normal(c, scale=0.1),
        }
        x = normal(*images, self.inputs)
        return params, x, np.zeros((*images, c)), normal(*images, c, scale=0.5)


SETTINGS = tuple(
    Setting(channels=channels, side=side, gain=gain)
    for channels, side, gains in ((8, 14, (0.2, 1.07)), (16, 28, (0.2, 1.07)))
    for gain in gains
)


def shifted(y, kernel):
    """A 3x3 convolution as nine products of matrices."""
    padded = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = y.shape[1:3]
    return sum(
        jnp.dot(padded[:, i : i + height, j : j + width], kernel[i, j])
        for i in range(3)
        for j in range(3)
    )


@jax.jit
def reference(params, x, y0, target):
    """The gradient to rounding, plain steps to 1e-10, and whether all of it converged."""

    def step(params, y):
        return jnp.tanh(shifted(y, params["lateral"]) + drive)

    def until(map_, start, tolerance):
        def body(carry):
            y, count, _ = carry
            new = map_(y)
            return new, count + 1, jnp.max(jnp.abs(new - y))

        going = lambda carry: (carry[2] > tolerance) & (carry[1] < 2000)  # noqa: E731
        return jax.lax.while_loop(going, body, (start, 0, jnp.array(jnp.inf, start.dtype)))

    drive = shifted(x, params["kernel"]) + params["bias"]
    y, count, _ = until(functools.partial(step, params), y0, 1e-10)
    y, _, residual = until(functools.partial(step, params), y, 2e-15)
    cotangent = jax.grad(lambda y: jnp.mean((y - target) ** 2))(y)
    back = jax.vjp(functools.partial(step, params), y)[1]
    scale = jnp.max(jnp.abs(cotangent))
    u, _, left = until(lambda u: back(u)[0] + cotangent, cotangent, 1e-14 * scale)

    def whole(params):
        return jnp.tanh(
            shifted(y, params["lateral"]) + shifted(x, params["kernel"]) + params["bias"]
        )

    (gradient,) = jax.vjp(whole, params)[1](u)
    return gradient, count, (residual < 1e-13) & (left < 1e-11 * scale)


def error_of(gradient, exact) -> float:
    """Relative, in the maximum norm over all leaves; inf if not finite."""
    pairs = [
        (np.asarray(gradient[name], np.float64), np.asarray(exact[name], np.float64))
        for name in exact
    ]
    error = max(float(np.max(np.abs(a - b))) for a, b in pairs)
    error /= max(float(np.max(np.abs(b))) for _, b in pairs)
    return error if np.isfinite(error) else np.inf


@jax.jit
def residual(params, x, y):
    drive = shifted(x, params["kernel"]) + params["bias"]
    difference = jnp.tanh(shifted(y, params["lateral"]) + drive) - y
    return jnp.max(jnp.abs(difference), axis=(1, 2, 3))
