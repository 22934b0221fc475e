"""Anderson acceleration of Picard's iteration, for wide layers that contract."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.linear import factorize
from irnn_jax.looks import steps_a_look
from irnn_jax.max_norm import max_norm
from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, check_positive, repeat, tolerance_of


class History(NamedTuple):
    """The last iterates of a batch, and where the iteration stands.

    Attributes:
        state: Y, (n, *batch).
        velocity: f(A Y + b) - Y there, or what the function of another iteration changes.
        steps: differences of successive states, (memory, n, *batch).
        changes: differences of successive velocities, (memory, n, *batch).
        gram: products of the changes with each other, (memory, memory, *batch).
        num_steps: of each sample until it was within the tolerance, (*batch).
    """

    state: State
    velocity: State
    steps: Float[Array, "memory n *batch"]
    changes: Float[Array, "memory n *batch"]
    gram: Float[Array, "memory memory *batch"]
    num_steps: Float[Array, "*batch"]

    def slowness(self) -> Float[Array, "*batch"]:
        """The largest |dY|/|dF| of the steps that are kept: 1/rate along the slowest direction."""
        squares = jnp.sum(self.steps**2, axis=1)
        changes = jnp.diagonal(self.gram, axis1=0, axis2=1)
        changes = jnp.moveaxis(changes, -1, 0)
        ratios = jnp.where(changes > 0, squares / jnp.where(changes > 0, changes, 1), 0)
        return jax.lax.stop_gradient(jnp.sqrt(jnp.max(ratios, axis=0)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anderson:
    """Each step goes where a linear model of the last few steps puts the equilibrium.

    One product with A a step, and no linear system in n unknowns. It does not follow the flow:
    where there are several equilibria it may end at any, and it need not end. For networks that
    contract, wide ones above all.

    Walker and Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49
    (2011), in the form of differences, with the least squares solved by regularised normal
    equations, one small system a sample.

    Attributes:
        memory: how many differences are kept.
        mixing: the factor on the velocity, 1 for Picard's step.
        ridge: what is added to the normal equations, relative to their largest diagonal entry, at
            least the dtype's rounding.
        max_steps: the most products with A.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    memory: int = 5
    mixing: float = 1.0
    ridge: float = 1e-12
    max_steps: int = 500
    tolerance: float | None = None

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Iterate from y0 until every sample is within the tolerance, or not a number."""
        tolerance = tolerance_of(self, problem, y0.dtype)
        history = self.accelerate(problem.map, y0, tolerance, adjoint)
        num_steps = jax.lax.stop_gradient(history.num_steps).astype(jnp.int32)
        return Solved(
            state=history.state,
            num_steps=num_steps,
            time=jnp.zeros_like(history.num_steps),
            finished=~(max_norm(history.velocity) > tolerance),
        )

    def accelerate(
        self,
        function: Callable[[State], State],
        y0: State,
        tolerance: float | Array,
        adjoint: diffrax.AbstractAdjoint,
        limit: float | Array = math.inf,
    ) -> History:
        """Iterate y <- function(y) until max|function(y) - y| <= tolerance for each sample.

        At most `limit` times, which may be traced, and never more than `max_steps`.
        """

        def moving(history: History) -> Array:
            # A residual of NaN compares false, and ends the sample.
            return (max_norm(history.velocity) > tolerance) & (history.num_steps < limit)

        def advance(number: Array, history: History) -> History:
            going = moving(history)
            state = history.state + self._step(history)
            velocity = function(state) - state
            slot = number % self.memory
            change = velocity - history.velocity
            changes = history.changes.at[slot].set(change)
            # Of all products only those with the newest change are new.
            products = jnp.sum(changes * change, axis=1)
            # A sample that has ended takes no step, whatever its differences become.
            return History(
                state=jnp.where(going, state, history.state),
                velocity=jnp.where(going, velocity, history.velocity),
                steps=history.steps.at[slot].set(state - history.state),
                changes=changes,
                gram=history.gram.at[slot].set(products).at[:, slot].set(products),
                num_steps=history.num_steps + going.astype(state.dtype),
            )

        none = jnp.zeros((self.memory, *y0.shape), y0.dtype)
        history = History(
            state=y0,
            velocity=function(y0) - y0,
            steps=none,
            changes=none,
            gram=jnp.zeros((self.memory, self.memory, *y0.shape[1:]), y0.dtype),
            num_steps=jnp.zeros(y0.shape[1:], y0.dtype),
        )
        every = steps_a_look(self.max_steps)
        return repeat(advance, history, moving, self.max_steps, adjoint, every)

    def _step(self, history: History) -> State:
        """Beta F - (dY + beta dF) gamma, where gamma minimises |F - dF gamma|."""
        changes, velocity = history.changes, history.velocity
        # In units of the largest change: the squares of small ones leave float32's range.
        size = jnp.max(jnp.diagonal(history.gram), axis=-1)
        unit = jnp.where(size > 0, size, 1)
        gram = history.gram / unit
        projected = jnp.sum(changes * velocity, axis=1) / unit
        # Slots that are not filled yet are rows of zeros: any positive ridge makes them harmless.
        ridge = max(self.ridge, float(jnp.finfo(gram.dtype).eps)) + (size == 0)
        identity = jnp.eye(self.memory, dtype=gram.dtype)
        identity = identity.reshape(*identity.shape, *(1,) * (gram.ndim - 2))
        gamma = factorize(gram + ridge * identity).solve(projected)
        step = self.mixing * velocity
        for i in range(self.memory):
            step = step - gamma[i] * (history.steps[i] + self.mixing * changes[i])
        return step
