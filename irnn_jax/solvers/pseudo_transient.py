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
from irnn_jax.solvers.rodas3 import Iterate, rodas3
from irnn_jax.xla.device import steps_between_checks
from irnn_jax.xla.loops import Loop


class Progress(NamedTuple):
    """Where a batch stands. All but the iterate decides about steps only, and is in float32.

    Attributes:
        at: the iterate.
        step_size: h of the next step.
        followed: the h by which the flow was followed last.
        num_steps: of each sample until it was at rest.
    """

    at: Iterate
    step_size: Float[Array, "*numbers"]
    followed: Float[Array, "*numbers"]
    num_steps: Float[Array, "*numbers"]


def at_rest_within(
    tolerance: float | Float[Array, "*#numbers"], at: Iterate
) -> Bool[Array, "*numbers"]:
    """Which samples are within the tolerance, and done with Newton's method.

    A residual r leaves an error of up to r/rate in Y and r/rate^2 in the gradient: next to a fold,
    where the rate is small, the tolerance alone is not enough for ten digits. So the last step must
    also have left no more than the rounding of F does.
    """
    eps = float(jnp.finfo(at.residual.dtype).eps)
    done = (at.remaining <= eps / 4) | (at.residual <= 2 * eps)
    # Nothing after a NaN can be finite.
    return ((at.residual <= tolerance) & done) | jnp.isnan(at.residual)


def _stepped(rule: FollowThenNewton, tolerance: Any, problem: Problem, start: Progress) -> Progress:
    """One step of each sample that is not at rest."""
    end, report = rodas3(problem, start.at, start.step_size)
    keep, h, followed = rule.next_step_size(report, start.step_size, start.followed)
    moving = ~at_rest_within(tolerance, start.at)
    taken = keep & moving

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(taken, new, old)

    # What a problem without a matrix wants to know at a state is nothing, and belongs to no sample.
    slope = choose(end.slope, start.at.slope) if end.slope.ndim else end.slope
    at = jax.tree.map(choose, end._replace(slope=None), start.at._replace(slope=None))
    return Progress(
        at=at._replace(slope=slope),
        step_size=jnp.where(moving, h, start.step_size),
        followed=jnp.where(moving, followed, start.followed),
        num_steps=start.num_steps + moving.astype(start.num_steps.dtype),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoTransient:
    """Pseudo-transient continuation, the default solver: about 5 steps for well-scaled weights.

    It follows the flow with error control, so that it reaches the flow's own equilibrium, also
    where a fixed-step method is unstable, and ends at the rate of three Newton steps in one.

    Attributes:
        first_step: h of the first step, in units of the layer's time constant.
        error_tolerance: the error of a step, in activities, that h aims for. Smaller follows the
            flow more closely, in more steps.
        reject_above: a step with a larger error than this is taken back.
        newton_within: the distance to the equilibrium, in activities, from which on h grows
            towards Newton's method.
        max_steps: rejected steps included.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    first_step: float = 1.0
    error_tolerance: float = 0.03
    reject_above: float = 0.15
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

    def more_cautious(self) -> "PseudoTransient":
        """The same with a fifteenth of the errors, in two to three times as many steps."""
        return dataclasses.replace(
            self,
            first_step=self.first_step / 10,
            error_tolerance=self.error_tolerance / 15,
            reject_above=self.reject_above / 15,
            newton_within=self.newton_within / 5,
            max_steps=2 * self.max_steps,
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
        time = jnp.zeros_like(remaining)
        return Progress(
            at=Iterate(state, velocity, slope, residual, remaining, time),
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
            going = ~at_rest_within(tolerance, progress.at)
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
            finished=at_rest_within(tolerance, last.at),
            residual=last.at.residual,
        )
