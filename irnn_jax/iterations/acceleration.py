"""Anderson's acceleration of y <- g(y), for a batch.

Walker and Ni, "Anderson acceleration for fixed-point iterations", SIAM J. Numer. Anal. 49 (2011),
in the form of differences, with the least squares solved by regularised normal equations, one small
system a sample.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.linalg.dense import factorize
from irnn_jax.linalg.layout import Layout
from irnn_jax.xla.device import steps_between_checks
from irnn_jax.xla.loops import Loop

State = Float[Array, "*state"]
Numbers = Float[Array, "*numbers"]


class History(NamedTuple):
    """The last iterates of a batch, and where the iteration stands.

    Attributes:
        state: y.
        velocity: v = g(y) - y.
        moves: dy + mixing dv, of differences of successive states and velocities, (memory, *state).
        changes: the dv, (memory, *state).
        along: products of the changes with the velocity, (memory, *numbers).
        gram: products of the changes with each other, (memory, memory, *numbers).
        num_steps: of each sample until it was within the tolerance.
    """

    state: State
    velocity: State
    moves: Float[Array, "memory *state"]
    changes: Float[Array, "memory *state"]
    along: Float[Array, "memory *numbers"]
    gram: Float[Array, "memory memory *numbers"]
    num_steps: Numbers

    def slowness(self, layout: Layout, mixing: float) -> Numbers:
        """The largest |dy|/|dv| of the steps that are kept: 1/rate along the slowest direction."""
        steps = self.moves - mixing * self.changes
        squares = jnp.sum(steps**2, axis=1 + layout.neurons, keepdims=True)
        changes = jnp.moveaxis(jnp.diagonal(self.gram, axis1=0, axis2=1), -1, 0)
        ratios = jnp.where(changes > 0, squares / jnp.where(changes > 0, changes, 1), 0)
        return jax.lax.stop_gradient(jnp.sqrt(jnp.max(ratios, axis=0)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Acceleration:
    """Each step goes where a linear model of the last few steps puts the fixed point.

    Attributes:
        memory: how many differences are kept.
        mixing: the factor on the velocity, 1 for the plain step.
        ridge: what is added to the normal equations, relative to their largest diagonal entry, at
            least the dtype's rounding.
        max_steps: the most evaluations of g.
    """

    memory: int = 5
    mixing: float = 1.0
    ridge: float = 1e-12
    max_steps: int = 500

    def __call__(
        self,
        function: Callable[[State], State],
        start: State,
        tolerance: Callable[[State], float | Numbers],
        layout: Layout,
        loop: Loop,
        limit: float | Float[Array, "*#numbers"] = math.inf,
    ) -> History:
        """Iterate y <- function(y) until max|function(y) - y| <= tolerance(y) for each sample.

        At most `limit` times, which may be traced, and never more than `max_steps`.
        """

        def moving(history: History) -> Array:
            # A residual of NaN compares false, and ends the sample.
            enough = tolerance(history.state)
            return (layout.size(history.velocity) > enough) & (history.num_steps < limit)

        def advance(number: Array, history: History) -> History:
            going = moving(history)
            # A sample that has ended takes no step, whatever its differences become.
            state = jnp.where(going, history.state + self._step(history), history.state)
            velocity = function(state) - state
            slot = number % self.memory
            change = velocity - history.velocity
            changes = history.changes.at[slot].set(change)
            along = jnp.sum(changes * velocity, axis=1 + layout.neurons, keepdims=True)
            # Of all products only those with the newest change are new, and they are differences
            # of what has been summed up: the states are read once a step.
            products = (along - history.along).at[slot].set(layout.dot(change, change))
            return History(
                state=state,
                velocity=velocity,
                moves=history.moves.at[slot].set(state - history.state + self.mixing * change),
                changes=changes,
                along=along,
                gram=history.gram.at[slot].set(products).at[:, slot].set(products),
                num_steps=history.num_steps + going.astype(state.dtype),
            )

        none = jnp.zeros((self.memory, *start.shape), start.dtype)
        zeros = jnp.zeros_like(layout.size(start))
        history = History(
            state=start,
            velocity=function(start) - start,
            moves=none,
            changes=none,
            along=jnp.zeros((self.memory, *zeros.shape), start.dtype),
            gram=jnp.zeros((self.memory, self.memory, *zeros.shape), start.dtype),
            num_steps=zeros,
        )
        every = steps_between_checks(self.max_steps)
        return loop.repeat(advance, history, moving, self.max_steps, every)

    def _step(self, history: History) -> State:
        """Beta v - (dY + beta dV) gamma, where gamma minimises |v - dV gamma|."""
        # In units of the largest change: the squares of small ones leave float32's range.
        size = jnp.max(jnp.diagonal(history.gram), axis=-1)
        unit = jnp.where(size > 0, size, 1)
        gram = history.gram / unit
        # Slots that are not filled yet are rows of zeros: any positive ridge makes them harmless.
        ridge = max(self.ridge, float(jnp.finfo(gram.dtype).eps)) + (size == 0).astype(gram.dtype)
        identity = jnp.eye(self.memory, dtype=gram.dtype)
        identity = identity.reshape(*identity.shape, *(1,) * (gram.ndim - 2))
        gamma = factorize(gram + ridge * identity).solve(history.along / unit)
        step = self.mixing * history.velocity
        for i in range(self.memory):
            step = step - gamma[i] * history.moves[i]
        return step
