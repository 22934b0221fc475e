"""Pseudo-transient continuation: follow the flow while it matters, end as Newton's method.

A Rosenbrock step (`rodas3`) and a rule for its size (`FollowThenNewton`), both for a whole batch in
which every sample has a step size of its own. `Continuation` makes one diffrax solver of them, run
by `diffrax.diffeqsolve`. After Kelley and Keyes, "Convergence analysis of pseudo-transient
continuation", SIAM J. Numer. Anal. 35 (1998), with an error-controlled method of third order in
place of their linearly implicit Euler steps.
"""

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.approach import approach
from irnn_jax.solvers.base import Solved, check_positive, integrate, tolerance_of
from irnn_jax.solvers.count_steps import CountSteps
from irnn_jax.solvers.follow_then_newton import NEWTON_STEP_SIZE, FollowThenNewton
from irnn_jax.solvers.rodas3 import Iterate, rodas3


class Progress(NamedTuple):
    """Where a batch stands. All but the iterate decides about steps only, and is in float32.

    Attributes:
        at: the iterate.
        step_size: h of the next step, (*batch).
        followed: the h by which the flow was followed last, (*batch).
        num_steps: of each sample until it was at rest, as a float for diffrax, (*batch).
    """

    at: Iterate
    step_size: Float[Array, "*batch"]
    followed: Float[Array, "*batch"]
    num_steps: Float[Array, "*batch"]


def at_rest_within(
    tolerance: float | Float[Array, "*#batch"], at: Iterate
) -> Bool[Array, "*batch"]:
    """Which samples are within the tolerance, and done with Newton's method.

    A residual r leaves an error of up to r/rate in Y and r/rate^2 in the gradient: next to a fold,
    where the rate is small, the tolerance alone is not enough for ten digits. So the last step must
    also have left no more than the rounding of F does.
    """
    eps = float(jnp.finfo(at.residual.dtype).eps)
    done = (at.remaining <= eps / 4) | (at.residual <= 2 * eps)
    # Nothing after a NaN can be finite.
    return ((at.residual <= tolerance) & done) | jnp.isnan(at.residual)


# diffrax traces a step four times, and this once.
@functools.partial(jax.jit, static_argnums=0)
def _stepped(
    rule: FollowThenNewton,
    tolerance: Float[Array, "*#batch"],
    problem: Problem,
    start: Progress,
) -> Progress:
    """One step of each sample that is not at rest."""
    end, report = rodas3(problem, start.at, start.step_size)
    keep, h, followed = rule.next_step_size(report, start.step_size, start.followed)
    moving = ~at_rest_within(tolerance, start.at)
    taken = keep & moving

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(taken, new, old)

    return Progress(
        at=jax.tree.map(choose, end, start.at),
        step_size=jnp.where(moving, h, start.step_size),
        followed=jnp.where(moving, followed, start.followed),
        num_steps=start.num_steps + moving.astype(start.num_steps.dtype),
    )


class Continuation(diffrax.AbstractSolver):
    """The diffrax solver: in each step every sample that is not at rest tries one of its own.

    diffrax's time only counts the steps. Each sample has its own, with its own step size, and
    takes a rejected step back by itself: so one loop serves a batch without a `vmap`, in which the
    samples would lie the wrong way round for the machine (see `irnn_jax.linear`).
    """

    rule: FollowThenNewton
    tolerance: float | Float[Array, "*batch"]
    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """Third order in h."""
        del terms
        return 3

    def init(self, terms: Any, t0: Any, t1: Any, y0: Progress, args: Problem) -> None:
        """Nothing is carried from step to step but the progress."""
        del terms, t0, t1, y0, args

    def step(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Progress,
        args: Problem,
        solver_state: None,
        made_jump: Any,
    ):
        """One step of each sample that is not at rest."""
        del terms, t0, t1, solver_state, made_jump
        progress = _stepped(self.rule, jnp.asarray(self.tolerance), args, y0)
        return progress, None, {"y0": y0, "y1": progress}, None, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Progress, args: Problem) -> Progress:
        """The vector field dY/dt = F(Y); what is carried along has no dynamics of its own."""
        return terms.vf(t0, y0, args)


def flow(t: Any, y: Progress, problem: Problem) -> Progress:
    """The vector field, as diffrax asks for it."""
    del t
    still = jax.tree.map(jnp.zeros_like, y)
    return still._replace(at=still.at._replace(state=problem.map(y.at.state) - y.at.state))


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

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Step from y0 until every sample is at rest."""
        return self.proceed(problem, y0, self.first_step_sizes(problem, y0), adjoint)

    def first_step_sizes(self, problem: Problem, y0: State) -> Float[Array, "*batch"]:
        """`first_step`, and Newton's steps at once where there is but one equilibrium to find."""
        first = jnp.full(y0.shape[1:], self.first_step, jnp.float32)
        if problem.contracts is None:
            return first
        return jnp.where(problem.contracts, NEWTON_STEP_SIZE, first)

    def proceed(
        self,
        problem: Problem,
        y0: State,
        first: Float[Array, "*batch"],
        adjoint: diffrax.AbstractAdjoint,
    ) -> Solved:
        """Step from y0 with a first step of each sample's own.

        One that is longer than twice `first_step` is a Newton step: if it is rejected, the flow is
        followed from y0 on.
        """
        last = self.advance(problem, self.begin(problem, y0, first, adjoint), adjoint)
        return self.ended(problem, last)

    def begin(
        self,
        problem: Problem,
        y0: State,
        first: Float[Array, "*batch"],
        adjoint: diffrax.AbstractAdjoint,
    ) -> Progress:
        """Where a batch stands before its first step, see `proceed`."""
        return Progress(
            at=approach(problem, y0, tolerance_of(self, problem, y0.dtype), adjoint),
            step_size=first,
            followed=jnp.full(first.shape, self.first_step, first.dtype),
            num_steps=jnp.zeros_like(first),
        )

    def advance(
        self,
        problem: Problem,
        start: Progress,
        adjoint: diffrax.AbstractAdjoint,
        until: Float[Array, ""] | None = None,
    ) -> Progress:
        """Step until every sample is at rest or has taken `until` steps in all, or `max_steps`."""
        rule = FollowThenNewton(
            error_tolerance=self.error_tolerance,
            reject_above=self.reject_above,
            newton_within=self.newton_within,
        )
        dtype = start.at.state.dtype
        continuation = Continuation(rule=rule, tolerance=tolerance_of(self, problem, dtype))

        def ends(t: Any, y: Progress, args: Problem, **kwargs: Any) -> Bool[Array, ""]:
            del t, args, kwargs
            at_rest = at_rest_within(continuation.tolerance, y.at)
            return jnp.all(at_rest if until is None else at_rest | (y.num_steps >= until))

        last, _, _ = integrate(
            problem,
            start,
            vector_field=flow,
            solver=continuation,
            controller=CountSteps(),
            first_step=None,
            max_steps=self.max_steps,
            adjoint=adjoint,
            at_rest=ends,
        )
        return last

    def ended(self, problem: Problem, last: Progress) -> Solved:
        """What is kept of where a batch ended."""
        tolerance = tolerance_of(self, problem, last.at.state.dtype)
        return Solved(
            state=last.at.state,
            num_steps=jax.lax.stop_gradient(last.num_steps).astype(jnp.int32),
            time=last.at.time.astype(last.at.state.dtype),
            finished=at_rest_within(tolerance, last.at),
            residual=last.at.residual,
        )
