"""Pseudo-transient continuation: follow the flow while it matters, end as Newton's method.

A Rosenbrock step (`rodas3`) and a rule for its size (`FollowThenNewton`), both for a whole batch in
which every sample has a step size of its own. After Kelley and Keyes, "Convergence analysis of
pseudo-transient continuation", SIAM J. Numer. Anal. 35 (1998), with an error-controlled method of
third order in place of their linearly implicit Euler steps.

A loop of ours and not `diffrax.diffeqsolve`: a sample keeps its own time, so that diffrax's would
only count the steps, and its loop costs a fifth of the compilation of a gradient
(docs/performance.md).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, check_positive, solved_at, tolerance_of
from irnn_jax.solvers.follow_then_newton import NEWTON_STEP_SIZE, FollowThenNewton
from irnn_jax.solvers.growth import Growth
from irnn_jax.solvers.rodas3 import Iterate, rodas3
from irnn_jax.xla.device import steps_between_checks
from irnn_jax.xla.loops import Loop


class Progress(NamedTuple):
    """Where a batch stands. All but the iterate decides about steps only, and is in float32.

    Attributes:
        at: the iterate.
        growth: what is known of the way.
        step_size: h of the next step.
        followed: the h by which the flow was followed last.
        num_steps: of each sample until it was at rest.
    """

    at: Iterate
    growth: Growth
    step_size: Float[Array, "*numbers"]
    followed: Float[Array, "*numbers"]
    num_steps: Float[Array, "*numbers"]


def at_rest_within(tolerance: Any, problem: Problem, at: Iterate) -> Bool[Array, "*numbers"]:
    """Which samples are within the relative tolerance, and done with Newton's method.

    A residual r leaves an error of up to r/rate in Y and r/rate^2 in the gradient: next to a fold,
    where the rate is small, the tolerance alone is not enough for ten digits. So the last step must
    also have left no more than the rounding of F does.
    """
    eps = float(jnp.finfo(at.residual.dtype).eps)
    scale = problem.scale_at(at.state)
    done = (at.remaining <= eps / 4 * scale) | (at.residual <= 2 * eps * scale)
    # Nothing after a NaN can be finite.
    return ((at.residual <= tolerance * scale) & done) | jnp.isnan(at.residual)


def _stepped(rule: FollowThenNewton, tolerance: Any, problem: Problem, start: Progress) -> Progress:
    """One step of each sample that is not at rest."""
    end, report = rodas3(problem, start.at, start.step_size)
    growth = start.growth.seen(problem.layout.size(end.state + end.velocity))
    keep, h, follow = rule.next_step_size(report, growth.scale, start.step_size, start.followed)
    moving = ~at_rest_within(tolerance, problem, start.at)
    taken = keep & moving
    followed = taken & (end.time > start.at.time)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(taken, new, old)

    # What a problem without a matrix wants to know at a state is nothing, and belongs to no sample.
    slope = choose(end.slope, start.at.slope) if end.slope.ndim else end.slope
    at = jax.tree.map(choose, end._replace(slope=None), start.at._replace(slope=None))
    return Progress(
        at=at._replace(slope=slope),
        growth=growth.after(report.error, end.residual, followed),
        step_size=jnp.where(moving, h, start.step_size),
        followed=jnp.where(moving, follow, start.followed),
        num_steps=start.num_steps + moving.astype(start.num_steps.dtype),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoTransient:
    """Pseudo-transient continuation, the default solver: about 5 steps for well-scaled weights.

    It follows the flow with error control, so that it reaches the flow's own equilibrium, also
    where a fixed-step method is unstable, and ends at the rate of three Newton steps in one.

    Attributes:
        first_step: h of the first step, in units of the layer's time constant.
        error_tolerance: the error of a step that h aims for, relative to the largest activity.
            Smaller follows the flow more closely, in more steps.
        reject_above: a step with a larger error than this, likewise, is taken back.
        newton_within: the distance to the equilibrium, likewise, from which on h grows towards
            Newton's method.
        max_steps: rejected steps included.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    first_step: float = 0.25
    error_tolerance: float = 0.02
    reject_above: float = 0.03
    newton_within: float = 0.1
    max_steps: int = 400
    tolerance: float | None = None

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))
        if self.reject_above < self.error_tolerance:
            raise ValueError(
                f"reject_above must be at least error_tolerance, got {self.reject_above} < "
                f"{self.error_tolerance}"
            )

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Step from y0 until every sample is at rest."""
        return self.proceed(problem, y0, self.first_step_sizes(problem, y0), loop)

    def first_step_sizes(self, problem: Problem, y0: State) -> Float[Array, "*numbers"]:
        """`first_step`, and Newton's steps at once where there is but one equilibrium to find."""
        first = jnp.full(problem.layout.size(y0).shape, self.first_step, jnp.float32)
        if problem.contracts is None:
            return first
        return jnp.where(problem.contracts, NEWTON_STEP_SIZE, first)

    def proceed(
        self, problem: Problem, y0: State, first: Float[Array, "*numbers"], loop: Loop
    ) -> Solved:
        """Step from y0 with a first step of each sample's own.

        One that is longer than twice `first_step` is a Newton step: if it is rejected, the flow is
        followed from y0 on.
        """
        last = self.advance(problem, self.begin(problem, y0, first, loop), loop)
        return self.ended(problem, last)

    def begin(
        self, problem: Problem, y0: State, first: Float[Array, "*numbers"], loop: Loop
    ) -> Progress:
        """Where a batch stands before its first step, see `proceed`."""
        tolerance = tolerance_of(self, problem, y0.dtype)
        state, slope, velocity, residual, remaining = problem.first_evaluations(y0, tolerance, loop)
        time, size = jnp.zeros_like(remaining), problem.layout.size
        return Progress(
            at=Iterate(state, velocity, slope, residual, remaining, time),
            growth=Growth.begin(size(state + velocity), size(state), residual, jnp.float32),
            step_size=first,
            followed=jnp.full(first.shape, self.first_step, first.dtype),
            num_steps=jnp.zeros_like(first),
        )

    def advance(
        self,
        problem: Problem,
        start: Progress,
        loop: Loop,
        until: Float[Array, ""] | None = None,
    ) -> Progress:
        """Step until every sample is at rest or has taken `until` steps in all, or `max_steps`."""
        rule = FollowThenNewton(
            error_tolerance=self.error_tolerance,
            reject_above=self.reject_above,
            newton_within=self.newton_within,
        )
        tolerance = tolerance_of(self, problem, start.at.state.dtype)

        def moving(progress: Progress) -> Bool[Array, "*numbers"]:
            going = ~at_rest_within(tolerance, problem, progress.at)
            return going if until is None else going & (progress.num_steps < until)

        def step(number: Array, progress: Progress) -> Progress:
            del number
            return _stepped(rule, tolerance, problem, progress)

        every = steps_between_checks(self.max_steps)
        as_one = problem.is_arithmetic
        return loop.repeat(step, start, moving, self.max_steps, every, as_one)

    def ended(self, problem: Problem, last: Progress) -> Solved:
        """What is kept of where a batch ended."""
        tolerance = tolerance_of(self, problem, last.at.state.dtype)
        return solved_at(
            problem,
            last.at.state,
            num_steps=last.num_steps,
            time=last.at.time,
            finished=at_rest_within(tolerance, problem, last.at),
            residual=last.at.residual,
            error=last.growth.error(),
        )
