"""scipy, sample by sample, as the paper did: `solve_ivp` (RK45) to rest, then the adjoint by LU.

The paper's own cost, in Python: timed on a few samples and multiplied, which the tables say.
"""

import jax
import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import expit

from benchmarks.peers.base import EagerContender
from benchmarks.reference import gradient_of, stacked_system

END = 1e4  # in time constants


class ScipyRun:
    """One batch, ready to be solved."""

    def __init__(self, net, x, target, tolerance):
        self.net = jax.tree.map(np.asarray, net)
        self.x, self.target = np.asarray(x), np.asarray(target)
        # scipy raises a relative tolerance below 100 rounding errors to that, with a warning.
        self.tolerance = tolerance

    def rest(self, matrix, b):
        def field(t, y):
            return expit(matrix @ y + b) - y

        def still_moving(t, y):
            return np.max(np.abs(field(t, y))) - self.tolerance

        still_moving.terminal = True  # pyright: ignore[reportFunctionMemberAccess]
        return solve_ivp(
            field,
            (0, END),
            np.zeros_like(b),
            rtol=self.tolerance,
            atol=self.tolerance,
            events=still_moving,
        ).y[:, -1]

    def equilibria(self):
        matrix, b = stacked_system(self.net, self.x)
        pairs = zip(matrix, b, strict=True)
        return np.array([[self.rest(a, sample) for sample in run] for a, run in pairs])

    def gradient(self):
        y = self.equilibria()
        return gradient_of(self.net, self.x, self.target, y), y

    def train(self, num_steps):
        """The gradients only: Adam in numpy costs nothing beside them."""
        for _ in range(num_steps):
            self.gradient()


CONTENDERS = (
    EagerContender(
        name="scipy RK45 + LU, sample by sample",
        library="scipy",
        prepare=ScipyRun,
        dense=True,
        runs=2,
        samples=6,
    ),
)
