"""Only equilibria at which the flow stays."""

import dataclasses

import jax.numpy as jnp

from irnn_jax.implicit import Method, converged, judged
from irnn_jax.linalg.spectrum import find_unstable
from irnn_jax.networks.dense_problem import DenseProblem
from irnn_jax.problem import State
from irnn_jax.solvers import Solved
from irnn_jax.solvers.base import Escalating
from irnn_jax.solvers.retry import Flags, retry
from irnn_jax.status import Status


def only_stable(method: Method, problem: DenseProblem, y0: State, solved: Solved) -> Solved:
    """Flag the equilibria that the flow would leave, after one more, cautious attempt at each.

    Most of them are what Newton's method finds inside a limit cycle. The others hide an equilibrium
    that the flow does reach, for a solver that follows it more closely; so do some samples that did
    not converge at all, and they are attempted again too.
    """

    def missing(problem: DenseProblem, solved: Solved) -> Flags:
        del problem
        return ~converged(solved) & (solved.status != Status.NON_FINITE)

    solved = _flagged(problem, solved)
    if not isinstance(method.solver, Escalating):
        return solved
    cautious = dataclasses.replace(method, solver=method.solver.more_cautious())

    def flagged(problem: DenseProblem, solved: Solved) -> Solved:
        return _flagged(problem, judged(cautious, problem, solved))

    loop = method.gradient.loop()
    return retry(
        cautious.solver, problem, y0, solved, missing, loop, judged=flagged, accepted=converged
    )


def _flagged(problem: DenseProblem, solved: Solved) -> Solved:
    _, slope = problem.value_and_slope(solved.state)
    jacobian = jnp.moveaxis(slope[:, None] * problem.matrix, (0, 1), (-2, -1))
    unstable = find_unstable(jacobian, converged(solved)[0])
    return solved._replace(status=jnp.where(unstable, Status.UNSTABLE, solved.status))
