"""Whether a sample converged: asked once, for all solvers alike."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from irnn_jax.problem import Problem
from irnn_jax.solvers.base import Solved, Solver, tolerance_at
from irnn_jax.status import Status, judge


def converged(solved: Solved) -> Bool[Array, "*numbers"]:
    """Which samples may be used."""
    return solved.status == Status.CONVERGED


def judged(solver: Solver, problem: Problem, solved: Solved) -> Solved:
    """With the status of each sample."""
    # A NaN is not comparable; what a caller can act on is "infinitely far from equilibrium".
    residual = jnp.where(jnp.isnan(solved.residual), jnp.inf, solved.residual)
    tolerance = tolerance_at(solver, problem, solved.state)
    status = judge(residual, solved.time, tolerance)
    return solved._replace(residual=residual, status=status)
