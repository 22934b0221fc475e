"""Only equilibria at which the flow stays."""

from typing import Any

import jax.numpy as jnp

from irnn_jax.linalg.spectrum import find_unstable
from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Escalating, Solved, Solver
from irnn_jax.solvers.judge import converged, judged
from irnn_jax.solvers.retry import Flags, retry
from irnn_jax.status import Status
from irnn_jax.xla.loops import Loop


def only_stable(solver: Solver, loop: Loop, problem: Problem, y0: State, solved: Solved) -> Solved:
    """Flag the equilibria that the flow would leave, after one more, cautious attempt at each.

    Most of them are what Newton's method finds inside a limit cycle. The others hide an equilibrium
    that the flow does reach, for a solver that follows it more closely; so do some samples that did
    not converge at all, and they are attempted again too.
    """

    def missing(problem: Problem, solved: Solved) -> Flags:
        del problem
        return ~converged(solved) & (solved.status != Status.NON_FINITE)

    solved = _flagged(problem, solved)
    if not isinstance(solver, Escalating):
        return solved
    cautious = solver.more_cautious()

    def flagged(problem: Problem, solved: Solved) -> Solved:
        return _flagged(problem, judged(cautious, problem, solved))

    return retry(cautious, problem, y0, solved, missing, loop, judged=flagged, accepted=converged)


def _flagged(problem: Problem, solved: Solved) -> Solved:
    jacobian = problem.jacobian(solved.state)
    unstable = find_unstable(jacobian, converged(solved).reshape(-1))
    unstable = unstable.reshape(solved.residual.shape)
    status: Any = solved.status
    return solved._replace(status=jnp.where(unstable, Status.UNSTABLE, status))
