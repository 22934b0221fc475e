"""Only equilibria that the flow reaches, and at which it stays."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, Solver, makes_sure, unsolved
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
        solved = judged(solver, problem, solver.solve(problem, start, loop))
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
    smallest = max(SMALLEST, 8 * float(jnp.finfo(y0.dtype).eps))

    def closely(way: Way, problem: Problem, going: Flags, *limits: Numbers) -> Way:
        few = functools.partial(follow, loop=loop)
        return problem.run_for(few, going, way, problem, going, *limits)

    def advance(number: Array, before: Attempt) -> Attempt:
        first, going = number == 0, before.going
        followed = loop.run_if(
            going & ~first, closely, before.way, problem, going, before.within, before.precision
        )
        start = jnp.where(going, followed.state, before.solved.state)
        found = attempt(start)
        # Where the flow has not come so near in all its steps, it is near enough to be believed.
        within = jnp.where(followed.settling, before.within, WITHIN)
        there = first | (size(found.state - start) <= 4 * within * followed.scale)
        lost = converged(found) & ~there
        found = _with_status(found, lost, Status.MAX_STEPS)

        ok = converged(found)
        error = jnp.where(first, found.error, before.precision * jnp.exp(followed.most))
        unsure = ok & (error > jnp.where(first, BELIEVED, BELIEVED_CLOSELY))
        # By what is known so far, even the smallest errors would decide.
        beyond = ~first & (jnp.exp(followed.most) * smallest > 1e3 * BELIEVED_CLOSELY)
        again = unsure & ~first & (before.precision > smallest) & ~beyond
        # A tenth of what would do, by what is known so far.
        finer = jnp.maximum(BELIEVED_CLOSELY / 10 * jnp.exp(-followed.most), smallest)
        tie = (unsure & ~first & ~again) | (lost & beyond)
        found = _with_status(found, tie, Status.SENSITIVE)
        cycles = (found.status == Status.LIMIT_CYCLE) & (found.time >= LONG)
        hopeless = (found.status == Status.NON_FINITE) | cycles
        on = jnp.where(
            first, unsure | (~ok & ~hopeless), again | (~ok & ~beyond & followed.settling)
        )
        anew = first | again
        fresh = begin(y0, size(y0))
        return Attempt(
            solved=_merged(before, found, followed, first),
            way=jax.tree.map(lambda new, old: jnp.where(again, new, old), fresh, followed),
            within=jnp.where(anew, WITHIN, before.within * CLOSER),
            precision=jnp.where(again, finer, before.precision),
            going=going & on,
        )

    like = jnp.zeros_like(size(y0))
    start = Attempt(
        solved=unsolved(y0, like)._replace(status=like.astype(jnp.int32)),
        way=begin(y0, size(y0)),
        within=jnp.full_like(like, WITHIN),
        precision=jnp.full_like(like, max(PRECISION, smallest)),
        going=jnp.ones(like.shape, bool),
    )
    return loop.repeat(advance, start, lambda at: at.going, ATTEMPTS).solved


def _merged(before: Attempt, found: Solved, way: Way, first: Array) -> Solved:
    """What is new, of those who were going."""
    later = before.going & ~first
    along = (way.num_steps - before.way.num_steps).astype(jnp.int32)
    merged = found._replace(
        time=jnp.where(later, way.time, found.time).astype(found.time.dtype),
        num_steps=before.solved.num_steps + found.num_steps + along,
        sensitivity=jnp.where(later, jnp.exp(way.most), found.sensitivity),
    )
    return jax.tree.map(lambda new, old: jnp.where(before.going, new, old), merged, before.solved)


def _with_status(solved: Solved, where: Flags, status: Status) -> Solved:
    known: Any = solved.status
    return solved._replace(status=jnp.where(where, status, known))
