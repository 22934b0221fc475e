"""Newton's method, its linear systems solved by GMRES where the layer is wide."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, check_positive, solved_at, tolerance_at
from irnn_jax.xla.loops import Loop


class Search(NamedTuple):
    """Where a batch stands.

    Attributes:
        state: Y, like a state.
        velocity: F(Y) = g(Y) - Y, like a state.
        slope: what the linearisation at Y needs.
        fraction: of the next Newton step that is tried, one a sample.
        num_steps: of each sample until it was within the tolerance, one a sample.
    """

    state: State
    velocity: State
    slope: Array
    fraction: Float[Array, "*numbers"]
    num_steps: Float[Array, "*numbers"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewtonKrylov:
    """Newton's method with a line search, for wide layers near an equilibrium.

    Each step solves (I - D A) u = F(Y) by GMRES, to eps^(1/4) relative; up to 100 neurons directly.
    A step that does not lower |F| is taken back and tried again at half its length, and a good one
    is followed by one of twice the fraction. It does not follow the flow: where there are several
    equilibria it may end at any, an unstable one too.

    After Knoll and Keyes, "Jacobian-free Newton-Krylov methods", J. Comput. Phys. 193 (2004).

    Attributes:
        max_steps: those that were taken back included.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    max_steps: int = 100
    tolerance: float | None = None

    def __post_init__(self):
        check_positive(**dataclasses.asdict(self))

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Iterate from y0 until every sample is within the tolerance, or not a number."""
        size = problem.layout.size

        def moving(search: Search) -> Array:
            # A residual of NaN compares false, and ends the sample.
            return size(search.velocity) > tolerance_at(self, problem, search.state)

        def advance(number: Array, search: Search) -> Search:
            del number
            undamped = jnp.zeros_like(search.fraction)
            system = problem.damped(search.state, search.slope, undamped)
            newton = system.solve(search.velocity).astype(search.state.dtype)
            state = search.state + search.fraction * newton
            value, slope = problem.value_and_slope(state)
            velocity = value - state
            going = moving(search)
            dot = problem.layout.dot
            before, after = dot(search.velocity, search.velocity), dot(velocity, velocity)
            lower = jax.lax.stop_gradient(after < before)
            taken = going & lower
            fraction = jnp.where(lower, jnp.minimum(2 * search.fraction, 1), search.fraction / 2)
            return Search(
                state=jnp.where(taken, state, search.state),
                velocity=jnp.where(taken, velocity, search.velocity),
                slope=jnp.where(taken, slope, search.slope) if slope.ndim else slope,
                fraction=fraction,
                num_steps=search.num_steps + going.astype(state.dtype),
            )

        value, slope = problem.value_and_slope(y0)
        ones = jnp.ones_like(size(y0))
        start = Search(
            state=y0,
            velocity=value - y0,
            slope=slope,
            fraction=ones,
            num_steps=jnp.zeros_like(ones),
        )
        search = loop.repeat(advance, start, moving, self.max_steps)
        return solved_at(
            problem,
            search.state,
            num_steps=search.num_steps,
            finished=~moving(search),
            residual=size(search.velocity),
        )
