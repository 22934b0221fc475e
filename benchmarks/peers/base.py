"""What a contender is: one way to the equilibria of a batch and to the gradient of its loss.

All of them get the same: networks with a leading axis of runs, inputs (runs, batch, inputs),
targets (runs, batch, outputs) and one tolerance. What a JAX contender brings is one differentiable
function from a network and a batch to activities; loss, gradient, training and compilation are
the suite's and so the same for all. An eager contender (torch, scipy) brings the gradient itself.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from irnn_jax.networks.dense import Network, connections, drive

MAX_ITERATIONS = 256  # of every method that is not Newton's

Activities = Callable[[Network, jax.Array, float], jax.Array]
Equilibria = Callable[[jax.Array, jax.Array, float], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JaxContender:
    """A function that JAX differentiates and compiles.

    Attributes:
        name: what the tables say.
        library: the module it needs; one that is not installed is listed as missing.
        activities: one network, inputs (batch, inputs), tolerance -> (batch, n).
        dense: needs an n x n matrix for each sample: its cost grows with n^3.
        has_gradient: False for one that is only timed forwards.
        recurrent: False for the feed-forward twin, which gets the network without W and R.
        forward: False if another contender has the same forward pass.
        own_step: builds the whole training step, where the library has one; see `training.py`.
        heavy: slow to compile or to run, and so left out by `--quick`.
        samples: the most samples of a run in one forward call, for those that take long.
    """

    name: str
    library: str
    activities: Activities
    dense: bool = False
    has_gradient: bool = True
    recurrent: bool = True
    forward: bool = True
    own_step: Callable[..., Any] | None = None
    heavy: bool = False
    samples: int | None = None

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        return missing(self.library)


class EagerRun(Protocol):
    """A contender set up on one batch: each call computes anew, and returns numpy arrays."""

    def equilibria(self) -> np.ndarray:
        """Activities (runs, batch, n)."""
        ...

    def gradient(self) -> tuple[Network, np.ndarray]:
        """The gradient, with leaves (runs, ...), and activities (runs, batch, n)."""
        ...

    def train(self, num_steps: int) -> None:
        """Adam steps on the batch."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class EagerContender:
    """A contender that runs call by call, outside JAX.

    Attributes:
        prepare: (networks, x, target, tolerance) -> `EagerRun`.
        runs, samples: the most runs, and samples of a run, that it is timed on; its time is
            multiplied by what was left out, and the tables say so.
    """

    name: str
    library: str
    prepare: Callable[..., EagerRun]
    dense: bool = False
    has_gradient: bool = True
    recurrent: bool = True
    forward: bool = True
    heavy: bool = False
    runs: int | None = None
    samples: int | None = None

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        return missing(self.library)


Contender = JaxContender | EagerContender


def missing(library: str) -> str | None:
    """What to say of a library that is not installed."""
    found = importlib.util.find_spec(library) is not None
    return None if found else f"{library} is not installed (benchmarks/peers.txt)"


def stacked(equilibria: Equilibria) -> Activities:
    """For a peer that solves Y = f(A Y + b) on a batch b (batch, n): assemble A and b for it."""

    def activities(net: Network, x: jax.Array, tolerance: float) -> jax.Array:
        return equilibria(connections(net, x.dtype), drive(net, x), tolerance)

    return activities


def each(solve: Equilibria) -> Activities:
    """For a peer that solves one sample, b (n,): mapped over the batch by `jax.vmap`."""
    return stacked(lambda matrix, b, tolerance: jax.vmap(lambda b: solve(matrix, b, tolerance))(b))
