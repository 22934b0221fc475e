"""The one retry: what failed is solved again, from the start, by a more cautious solver."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, Solver
from irnn_jax.xla.loops import Loop

Flags = Bool[Array, "*numbers"]


def retry(
    solver: Solver,
    problem: Problem,
    y0: State,
    before: Solved,
    failed: Callable[[Problem, Solved], Flags],
    loop: Loop,
    judged: Callable[[Problem, Solved], Solved] = lambda problem, solved: solved,
    accepted: Callable[[Solved], Flags] = lambda solved: jnp.ones_like(solved.finished),
) -> Solved:
    """`before`, with what `failed` solved by `solver` from y0 in its place, where it is `accepted`.

    Nothing runs unless a sample needs it, and on one CPU only those that do. Those that do not
    start where they are, and are done after a step. Steps are added up.

    Args:
        solver: the second solver.
        problem: the batch.
        y0: where it begins again.
        before: what is known of it.
        failed: which samples need it.
        loop: how work that not all need is done.
        judged: what else is asked of what the second solver found.
        accepted: what may take the place of the first answer, of what was judged.
    """

    def again(before: Solved, problem: Problem, y0: State) -> Solved:
        needed = failed(problem, before)
        start = jnp.where(needed, y0, before.state)
        second = judged(problem, solver.solve(problem, start, loop))
        chosen = needed & accepted(second)
        merged = jax.tree.map(lambda new, old: jnp.where(chosen, new, old), second, before)
        num_steps = before.num_steps + jnp.where(needed, second.num_steps, 0)
        return merged._replace(num_steps=num_steps)

    def of_those(before: Solved, problem: Problem, y0: State) -> Solved:
        if not loop.skips:
            return again(before, problem, y0)
        return problem.run_for(again, failed(problem, before), before, problem, y0)

    return loop.run_if(failed(problem, before), of_those, before, problem, y0)
