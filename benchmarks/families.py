"""Families of networks in which small differences decide, as data; a new one is a function.

Each draws a matrix A and drives b for neurons y = f(A y + b), as computational neuroscience has
them, and names f.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

Drawn = tuple[np.ndarray, np.ndarray]  # A (n, n), b (count, n)


@dataclasses.dataclass(frozen=True)
class Family:
    """`draw(rng, n, count)` -> A and b; `activation` is "sigmoid" or "tanh"."""

    draw: Callable[[np.random.Generator, int, int], Drawn]
    activation: str = "sigmoid"


def normal(rng, n, gain):
    return rng.normal(size=(n, n)) * gain / np.sqrt(n)


def patterns(rng, n):
    return rng.choice([-1.0, 1.0], size=(max(1, n // 8), n))


def competition(rng, n, count):
    """Each excites itself and inhibits the others; drives differ by 1e-1 to 1e-6."""
    own, other = rng.uniform(4, 7), -rng.uniform(6, 12)
    spread = 10.0 ** -rng.uniform(1, 6, size=(count, 1))
    return np.where(np.eye(n, dtype=bool), own, other), 2.2 + spread * rng.normal(size=(count, n))


def memory_tanh(rng, n, count):
    """Hebbian weights, and cues of 1 to 1e-5."""
    stored = patterns(rng, n)
    cue = stored[rng.integers(len(stored), size=count)] + 0.3 * rng.normal(size=(count, n))
    return rng.uniform(1.5, 3) * stored.T @ stored / n, 10.0 ** -rng.uniform(0, 5, (count, 1)) * cue


def memory_sigmoid(rng, n, count):
    stored = patterns(rng, n)
    matrix = rng.uniform(6, 12) * stored.T @ stored / n
    cue = stored[rng.integers(len(stored), size=count)] + 0.3 * rng.normal(size=(count, n))
    return matrix, 10.0 ** -rng.uniform(0, 4, (count, 1)) * cue - matrix.sum(1) / 2


def weak(rng, n, count):
    """Random tanh neurons beside their bifurcation from zero."""
    return normal(rng, n, rng.uniform(1, 2)), 10.0 ** -rng.uniform(0, 5, (count, 1)) * rng.normal(
        size=(count, n)
    )


def excitatory_inhibitory(rng, n, count):
    """Dale's law: four of five neurons excite."""
    sign = np.where(np.arange(n) % 5 == 4, -4.0, 1.0)
    matrix = np.abs(normal(rng, n, rng.uniform(4, 12))) * sign
    return matrix, rng.normal(size=(count, n)) - matrix.sum(1) / 2


def inhibition_stabilised(rng, n, count):
    """Excitation that would run away, if inhibition did not follow it."""
    excites = np.arange(n) % 2 == 0
    weights = np.where(excites, rng.uniform(8, 14), -rng.uniform(8, 14)) / max(1, n // 2)
    matrix = weights * rng.uniform(0.7, 1.3, size=(n, n))
    return matrix, rng.normal(size=(count, n))


def sparse(rng, n, count):
    matrix = normal(rng, n, 12) * (rng.random((n, n)) < 0.25)
    return matrix, rng.normal(size=(count, n)) - matrix.sum(1) / 2


def strong(rng, n, count):
    matrix = normal(rng, n, 15)
    return matrix, rng.normal(size=(count, n)) - matrix.sum(1) / 2


def folds(rng, n, count):
    """Neurons that excite themselves, beside the folds of their equilibria."""
    matrix = normal(rng, n, 1) + np.diag(rng.uniform(4.5, 8, n))
    return matrix, -rng.uniform(1.8, 3, size=(count, n))


def nonnormal(rng, n, count):
    """A strong chain from neuron to neuron, and weak ways back."""
    matrix = np.triu(normal(rng, n, 15), 1) + normal(rng, n, 2)
    return matrix, rng.normal(size=(count, n)) - matrix.sum(1) / 2


def critical(rng, n, count):
    """Symmetric, its largest eigenvalue beside one where tanh is steepest."""
    matrix = normal(rng, n, 1)
    matrix = (matrix + matrix.T) / 2
    scale = rng.uniform(0.97, 1.03) / max(np.linalg.eigvalsh(matrix)[-1], 0.1)
    return matrix * scale, 0.1 * rng.normal(size=(count, n))


def low_rank(rng, n, count):
    left, right = rng.normal(size=(2, n, 2))
    return 10 * left @ right.T / n, rng.normal(size=(count, n))


def saturated(rng, n, count):
    return normal(rng, n, 10), 8 * rng.normal(size=(count, n))


FAMILIES = {
    "competition": Family(competition),
    "memory, tanh": Family(memory_tanh, "tanh"),
    "memory, sigmoid": Family(memory_sigmoid),
    "weakly driven": Family(weak, "tanh"),
    "excitatory-inhibitory": Family(excitatory_inhibitory),
    "inhibition-stabilised": Family(inhibition_stabilised),
    "sparse": Family(sparse),
    "gain 15": Family(strong),
    "folds": Family(folds),
    "nonnormal": Family(nonnormal),
    "near-critical": Family(critical, "tanh"),
    "low rank": Family(low_rank),
    "saturated": Family(saturated),
}
