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
) -> Solved:
    """`before`, with what `failed` solved by `solver` from y0 in its place.

    Nothing runs unless a sample needs it, and on one CPU only those that do. Those that do not
    start where they are, and are done after a step. Steps are added up.

    Args:
        solver: the second solver.
        problem: the batch.
        y0: where it begins again.
        before: what is known of it.
        failed: which samples need it.
        loop: how work that not all need is done.
    """

    def again(before: Solved, problem: Problem, y0: State) -> Solved:
        needed = failed(problem, before)
        start = jnp.where(needed, y0, before.state)
        second = solver.solve(problem, start, loop)
        merged = jax.tree.map(lambda new, old: jnp.where(needed, new, old), second, before)
        num_steps = before.num_steps + jnp.where(needed, second.num_steps, 0)
        return merged._replace(num_steps=num_steps)

    def of_those(before: Solved, problem: Problem, y0: State) -> Solved:
        if not loop.skips:
            return again(before, problem, y0)
        return problem.run_for(again, failed(problem, before), before, problem, y0)

    return loop.run_if(failed(problem, before), of_those, before, problem, y0)
