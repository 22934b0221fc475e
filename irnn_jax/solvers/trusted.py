"""Only equilibria that the flow reaches, and at which it stays."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, Solver, makes_sure, tolerance_of, unsolved
from irnn_jax.solvers.closely import Way, begin, follow
from irnn_jax.solvers.judge import converged, judged
from irnn_jax.status import Status
from irnn_jax.xla.loops import Loop

Numbers = Float[Array, "*numbers"]
Flags = Bool[Array, "*numbers"]

# The error of the way, relative to the state or to what decided about it, of what is believed: of
# a solver's, and of the flow's, whose errors are known after all that they have grown by.
BELIEVED, BELIEVED_CLOSELY = 0.12, 0.02
# The errors of the flow's steps, relative to the state: at first, and where these may have decided.
PRECISION, SMALLEST = 1e-3, 1e-10
# How near the flow is followed to an equilibrium before that is looked for, relative to the state,
# and how much nearer each time that what is found is not the flow's own.
WITHIN, CLOSER, ATTEMPTS = 1e-3, 1e-2, 8
# A sample that still moves after so many time constants is believed to go in circles.
LONG = 50.0


class Attempt(NamedTuple):
    """What is known after some attempts to find the equilibrium that the flow comes to.

    Attributes:
        solved: the last answer.
        way: where the flow is.
        within: how near an equilibrium has to be.
        precision: the error of a step along the flow.
        going: of which samples the answer is not believed.
    """

    solved: Solved
    way: Way
    within: Numbers
    precision: Numbers
    going: Flags


def solve_trusted(
    solver: Solver, problem: Problem, y0: State, loop: Loop, *, stable: bool
) -> Solved:
    """What the solver finds, believed only where it cannot have been led astray.

    With `Auto`, what did not converge, ended where the flow would not stay, or passed where small
    errors become large ones, is followed closely, until an equilibrium is near, which the solver
    then finds from there. One that is far from there, or at which the flow would not stay, is not
    the flow's: it is followed on, until it is a hundred times as near. Where not even that can
    tell, the sample is flagged as sensitive.

    With `stable` an equilibrium that the flow leaves does not count, even if it led there.
    """

    def attempt(start: State) -> Solved:
        solved = solver.solve(problem, start, loop)
        tolerance = tolerance_of(solver, problem, start.dtype)
        solved = judged(solver, problem, problem.completed(solved, tolerance, loop))
        if not stable and not makes_sure(solver):
            return solved
        frozen, state = jax.lax.stop_gradient((problem, solved.state))
        unstable = frozen.unstable(state, converged(solved))
        return _with_status(solved, unstable, Status.UNSTABLE)

    if makes_sure(solver) and loop.skips:
        solved = _attempts(attempt, problem, y0, loop)
    else:
        solved = attempt(y0)
    if stable:
        return solved
    return _with_status(solved, solved.status == Status.UNSTABLE, Status.CONVERGED)


def _attempts(attempt: Any, problem: Problem, y0: State, loop: Loop) -> Solved:
    size = problem.layout.size
    like = jnp.zeros_like(size(y0))
    smallest = max(SMALLEST, 8 * float(jnp.finfo(y0.dtype).eps))

    # What the loops below change XLA does not compute before them, entered or not: so each gets
    # those who are going, and leaves nobody.
    def closely(at: tuple[Way, Flags], problem: Problem, *limits: Numbers) -> tuple[Way, Flags]:
        way, going = at
        few = functools.partial(follow, loop=loop)
        way = problem.run_for(few, going, way, problem, going, *limits)
        return way, jnp.zeros_like(going)

    def again(at: tuple[Attempt, Way], before: Attempt) -> tuple[Attempt, Way]:
        found, way = at
        return _after(before, found.solved, way, size, smallest, y0), begin(y0, like)

    def advance(number: Array, before: Attempt) -> Attempt:
        later = before.going & (number > 0)
        way, _ = loop.run_if(
            later, closely, (before.way, later), problem, before.within, before.precision
        )
        found = attempt(jnp.where(later, way.state, before.solved.state))
        unsure = converged(found) & (found.error > BELIEVED)
        first = before._replace(
            solved=found, going=unsure | ~(converged(found) | _is_hopeless(found))
        )
        return loop.run_if(later, again, (first, way), before)[0]

    start = Attempt(
        solved=unsolved(y0, like)._replace(status=like.astype(jnp.int32)),
        way=begin(y0, size(y0)),
        within=jnp.full_like(like, WITHIN),
        precision=jnp.full_like(like, max(PRECISION, smallest)),
        going=jnp.ones(like.shape, bool),
    )
    return loop.repeat(advance, start, lambda at: at.going, ATTEMPTS).solved


def _is_hopeless(found: Solved) -> Flags:
    """Not a number, or in circles."""
    cycles = (found.status == Status.LIMIT_CYCLE) & (found.time >= LONG)
    return (found.status == Status.NON_FINITE) | cycles


def _after(
    before: Attempt, found: Solved, way: Way, size: Any, smallest: float, y0: State
) -> Attempt:
    """What is known after the flow was followed to `way`, and an equilibrium looked for there."""
    # Where the flow has not come so near in all its steps, it is near enough to be believed.
    within = jnp.where(way.settling, before.within, WITHIN)
    lost = converged(found) & ~(size(found.state - way.state) <= 4 * within * way.scale)
    found = _with_status(found, lost, Status.MAX_STEPS)

    ok, grown = converged(found), jnp.exp(way.most)
    unsure = ok & (before.precision * grown > BELIEVED_CLOSELY)
    # By what is known so far, even the smallest errors would decide.
    beyond = smallest * grown > 1e3 * BELIEVED_CLOSELY
    again = unsure & (before.precision > smallest) & ~beyond
    tie = (unsure & ~again) | (lost & beyond)
    found = _with_status(found, tie, Status.SENSITIVE)
    # A tenth of what would do, by what is known so far.
    finer = jnp.maximum(BELIEVED_CLOSELY / 10 / grown, smallest)
    nearer = ~ok & ~beyond & way.settling
    fresh = begin(y0, size(y0))
    return Attempt(
        solved=_merged(before, found, way),
        way=jax.tree.map(lambda new, old: jnp.where(again, new, old), fresh, way),
        within=jnp.where(again, WITHIN, before.within * CLOSER),
        precision=jnp.where(again, finer, before.precision),
        going=before.going & (again | nearer),
    )


def _merged(before: Attempt, found: Solved, way: Way) -> Solved:
    """What is new, of those who were going."""
    along = (way.num_steps - before.way.num_steps).astype(jnp.int32)
    merged = found._replace(
        time=way.time.astype(found.time.dtype),
        num_steps=before.solved.num_steps + found.num_steps + along,
        sensitivity=jnp.exp(way.most),
    )
    return jax.tree.map(lambda new, old: jnp.where(before.going, new, old), merged, before.solved)


def _with_status(solved: Solved, where: Flags, status: Status) -> Solved:
    known: Any = solved.status
    return solved._replace(status=jnp.where(where, status, known))
