"""What is right: equilibria and gradients in float64 by numpy, direct, and beyond any tolerance.

Newton's method from a given state, then the adjoint (I - J^T) w = g by LU: no line of it is shared
with the library or a peer. Where n^3 for each sample is too much, both are iterated to rounding
instead (which needs spectral radii below one, and is checked), and LU confirms some samples.
"""

from typing import Any

import jax
import numpy as np
from scipy.special import expit

from irnn_jax.networks.dense import Layer, Network

DIRECT_UP_TO = 1e9  # operations: n^3 summed over samples
CONFIRMED = 4  # samples by LU where the rest is iterated


def stacked_system(net: Network, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A (runs, n, n) and b (runs, batch, n) of networks (runs, ...), in numpy."""
    sizes = net.sizes[1:]
    ends = np.cumsum(sizes)
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    runs, n = len(x), ends[-1]
    matrix = np.zeros((runs, n, n), x.dtype)
    b = np.zeros((*x.shape[:2], n), x.dtype)
    for i, layer in enumerate(net.layers):
        b[..., parts[i]] = np.asarray(layer.bias)[:, None]
        if layer.lateral is not None:
            matrix[:, parts[i], parts[i]] = layer.lateral
        if i:
            matrix[:, parts[i], parts[i - 1]] = layer.feedforward
            if net.feedback and net.feedback[i - 1] is not None:
                matrix[:, parts[i - 1], parts[i]] = net.feedback[i - 1]
    b[..., parts[0]] += x @ np.swapaxes(np.asarray(net.layers[0].feedforward), 1, 2)
    return matrix, b


def residual(net: Network, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """max|f(A Y + b) - Y| of each sample, (runs, batch), in float64; inf where it is no number."""
    net, x, y = jax.tree.map(_double, (net, x, y))
    matrix, b = stacked_system(net, x)
    value = np.max(np.abs(expit(y @ np.swapaxes(matrix, 1, 2) + b) - y), axis=-1)
    return np.where(np.isfinite(value), value, np.inf)


def equilibria(net: Network, x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Equilibria next to `start`, to rounding."""
    net, x, y = jax.tree.map(_double, (net, x, start))
    matrix, b = stacked_system(net, x)
    transposed = np.swapaxes(matrix, 1, 2)
    direct = _direct(y)
    for _ in range(6 if direct else 2000):
        value = expit(y @ transposed + b)
        missed = value - y
        if np.max(np.abs(missed), initial=0) < 2e-15:
            break
        y = y + (_solved(matrix, value, missed, transpose=False) if direct else missed)
    return y


def gradient_of(net: Network, x: np.ndarray, target: np.ndarray, y: np.ndarray) -> Network:
    """The gradient at equilibria y of each run's mean squared error, a Network (runs, ...)."""
    matrix, b = stacked_system(net, x)
    value = expit(y @ np.swapaxes(matrix, 1, 2) + b)
    g = np.zeros_like(y)
    outputs = target.shape[-1]
    error = y[..., -outputs:] - target
    g[..., -outputs:] = 2 * error / error[0].size
    if _direct(y):
        w = _solved(matrix, value, g, transpose=True)
    else:
        w = _iterated_adjoint(matrix, value, g)
    return _to_weights(net, x, y, value * (1 - value) * w)


def reference(net: Network, x: np.ndarray, target: np.ndarray, start: np.ndarray) -> Network:
    """The exact gradient, in float64."""
    net, x, target = jax.tree.map(_double, (net, x, target))
    return gradient_of(net, x, target, equilibria(net, x, start))


def gradient_error(gradient: Network, exact: Network) -> float:
    """The largest relative error of a run's whole gradient, in the Euclidean norm."""
    squares, norms = 0.0, 0.0
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact), strict=True):
        axes = tuple(range(1, b.ndim))
        squares = squares + np.sum((np.asarray(a, float) - b) ** 2, axis=axes)
        norms = norms + np.sum(b**2, axis=axes)
    error = np.max(np.sqrt(squares / norms))
    return float(error) if np.isfinite(error) else float("inf")


def _double(leaf: Any) -> np.ndarray:
    return np.asarray(leaf, np.float64)


def _direct(y: np.ndarray) -> bool:
    return y[..., 0].size * y.shape[-1] ** 3 <= DIRECT_UP_TO


def _solved(matrix, value, rhs, *, transpose):
    """(I - D A)^-1 rhs, or with the transposed matrix, run by run to bound the memory."""
    solved = np.empty_like(rhs)
    for run, (a, v) in enumerate(zip(matrix, value, strict=True)):
        system = np.eye(len(a)) - (v * (1 - v))[..., None] * a
        if transpose:
            system = np.swapaxes(system, 1, 2)
        solved[run] = np.linalg.solve(system, rhs[run][..., None])[..., 0]
    return solved


def _iterated_adjoint(matrix, value, g):
    slope, w = value * (1 - value), g
    for _ in range(2000):
        following = g + (slope * w) @ matrix
        done = np.max(np.abs(following - w)) <= 4e-15 * np.max(np.abs(w))
        w = following
        if done:
            break
    some = slice(0, CONFIRMED)
    confirmed = _solved(matrix, value[:, some], g[:, some], transpose=True)
    if not np.allclose(w[:, some], confirmed, rtol=1e-9, atol=1e-12 * np.max(np.abs(w))):
        raise RuntimeError("the iterated adjoint differs from the direct one")
    return w


def _to_weights(net: Network, x: np.ndarray, y: np.ndarray, u: np.ndarray) -> Network:
    """dL/dA = u^T y and dL/db = u, cut into layers."""
    ends = np.cumsum(net.sizes[1:])[:-1]
    us, ys = np.split(u, ends, axis=-1), np.split(y, ends, axis=-1)

    def outer(u, y) -> Any:
        return np.swapaxes(u, 1, 2) @ y

    layers = tuple(
        Layer(
            feedforward=outer(us[i], ys[i - 1] if i else x),
            lateral=None if layer.lateral is None else outer(us[i], ys[i]),
            bias=outer(us[i], np.ones_like(us[i][..., :1]))[..., 0],
        )
        for i, layer in enumerate(net.layers)
    )
    feedback = tuple(
        None if weights is None else outer(us[i], ys[i + 1])
        for i, weights in enumerate(net.feedback)
    )
    return Network(layers=layers, feedback=feedback)
