"""The flow by an explicit exponential method, and faster iterations where it settles."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.iterations.near import Near
from irnn_jax.problem import Coarse, Problem, State, default_tolerance
from irnn_jax.solvers.base import (
    Solved,
    check_positive,
    solved_at,
    tolerance_at,
    tolerance_of,
)
from irnn_jax.solvers.flow_step import Motion, flow_step
from irnn_jax.solvers.growth import Growth
from irnn_jax.xla.device import steps_between_checks
from irnn_jax.xla.loops import Loop
from irnn_jax.xla.precision import in_precision


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exponential:
    """Follow the flow with products alone, then settle: for wide layers, and for any cell.

    The decay -Y is integrated exactly and g(Y) to second order (ETD2RK: Cox and Matthews,
    "Exponential time differencing for stiff systems", J. Comput. Phys. 176, 2002):

        a  = Y + (1 - e^-h) F(Y)
        Y1 = a + (h - 1 + e^-h)/h (g(a) - g(Y))

    and (h - 1 + e^-h)/h (g(Y1) - g(a)) is its error, by which h is chosen. Two evaluations of g a
    step. Where
    the steps contract towards an equilibrium less than `accelerate_within` ahead, what settles
    there is iterated, as the problem does it fastest (`Problem.settle`), and what does not by
    Anderson acceleration; a sample that is led elsewhere counts as not converged. Of a network in
    float64 the flow and most of the iterations are in float32, and the residual decides. Strong
    weights make the flow stiff, and the steps short: then `PseudoTransient` is faster.

    Attributes:
        first_step: h of the first step, in units of the layer's time constant.
        error_tolerance: the error of a step that h aims for, relative to the largest activity.
        reject_above: a step with a larger error than this, likewise, is taken back.
        accelerate_within: the distance to the equilibrium, likewise, that is not followed.
        max_steps: along the flow, rejected ones included.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    first_step: float = 1.0
    error_tolerance: float = 0.03
    reject_above: float = 0.15
    accelerate_within: float = 0.02
    max_steps: int = 100
    tolerance: float | None = None

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Follow the flow from y0 until it settles, and go the rest of the way."""

        def part(problem: Problem, y0: State, shared: Any) -> tuple[Any, Solved]:
            motion = self._follow(problem, y0, loop)
            # The state may still become smaller, and with it what the tolerance is relative to.
            tolerance = 0.9 * tolerance_at(self, problem, motion.state)
            # What the steps were too few for may be near too; and what is not a number is not.
            going = problem.layout.size(motion.velocity) < jnp.inf
            near, shared = problem.settle(motion.state, going, tolerance, loop, shared)
            return shared, self._chosen(problem, motion, near, tolerance)

        return problem.solve_in_chunks(part, y0, loop)

    def _chosen(
        self,
        problem: Problem,
        motion: Motion,
        near: Near,
        tolerance: Any,
    ) -> Solved:
        """Where the flow led, or what it leads to."""
        size = problem.layout.size
        scale = motion.growth.scale
        there = size(near.state - motion.state) <= 2 * self.accelerate_within * scale
        if problem.contracts is not None:
            there = there | problem.contracts
        there = there & jnp.isfinite(near.residual)
        residual = jnp.where(there, near.residual, size(motion.velocity))
        return solved_at(
            problem,
            jnp.where(there, near.state, motion.state),
            num_steps=motion.num_steps + near.num_steps,
            time=motion.time,
            finished=~(residual > tolerance),
            residual=residual,
            error=motion.growth.error(),
        )

    def _follow(self, problem: Problem, y0: State, loop: Loop) -> Motion:
        """The flow until each sample settles."""
        # Steps with an error of a hundredth need no more than single precision.
        coarse = problem.coarse(y0)
        tolerance = tolerance_of(self, problem, y0.dtype)
        if coarse.state.dtype != y0.dtype:
            tolerance = default_tolerance(coarse.state.dtype)
        elif problem.tolerance is not None:
            tolerance = coarse.turned(tolerance)
        motion = self._repeat(coarse, self._start(coarse, problem.contracts), tolerance, loop)
        return in_precision(jax.tree.map(coarse.turned, motion), y0.dtype)

    def _start(self, coarse: Coarse, contracts: Bool[Array, "*numbers"] | None) -> Motion:
        """Where the flow begins; with one equilibrium only there is none to follow."""
        like = coarse.layout.size(coarse.state)
        zeros = jnp.zeros_like(like)
        settling = jnp.zeros(like.shape, bool)
        if contracts is not None:
            settling = coarse.turned(contracts)
        value = coarse.function(coarse.state)
        velocity, size = value - coarse.state, coarse.layout.size
        return Motion(
            state=coarse.state,
            velocity=velocity,
            growth=Growth.begin(size(value), like, size(velocity), like.dtype),
            step_size=jnp.full_like(like, self.first_step),
            settling=settling,
            time=zeros,
            num_steps=zeros,
        )

    def _repeat(
        self,
        coarse: Coarse,
        start: Motion,
        tolerance: float | Float[Array, "*numbers"],
        loop: Loop,
    ) -> Motion:
        """Steps of each sample until it settles."""

        def moving(motion: Motion) -> Array:
            # A residual of NaN compares false, and ends the sample.
            size = coarse.layout.size(motion.velocity)
            return ~motion.settling & (size > tolerance * motion.growth.scale)

        step = functools.partial(
            flow_step,
            coarse.function,
            coarse.layout.size,
            error_tolerance=self.error_tolerance,
            reject_above=self.reject_above,
            near=self.accelerate_within,
        )

        def advance(number: Array, motion: Motion) -> Motion:
            del number
            return step(motion, moving(motion))

        every = steps_between_checks(self.max_steps)
        return loop.repeat(advance, start, moving, self.max_steps, every)
