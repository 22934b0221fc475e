"""Newton's method, its linear systems solved by GMRES where the layer is wide."""

import dataclasses
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.max_norm import max_norm
from irnn_jax.problem import Problem, State
from irnn_jax.solvers.base import Solved, check_positive, repeat, tolerance_of


class Search(NamedTuple):
    """Where a batch stands.

    Attributes:
        state: Y, (n, *batch).
        velocity: F(Y) = f(A Y + b) - Y, (n, *batch).
        slope: what the linearisation at Y needs.
        fraction: of the next Newton step that is tried, (*batch).
        num_steps: of each sample until it was within the tolerance, (*batch).
    """

    state: State
    velocity: State
    slope: Array
    fraction: Float[Array, "*batch"]
    num_steps: Float[Array, "*batch"]


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

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Iterate from y0 until every sample is within the tolerance, or not a number."""
        tolerance = tolerance_of(self, problem, y0.dtype)

        def moving(search: Search) -> Array:
            # A residual of NaN compares false, and ends the sample.
            return max_norm(search.velocity) > tolerance

        def advance(number: Array, search: Search) -> Search:
            del number
            undamped = jnp.zeros_like(search.fraction)
            system = problem.damped_newton(search.state, search.slope, undamped)
            newton = system.solve(search.velocity).astype(search.state.dtype)
            state = search.state + search.fraction * newton
            value, slope = problem.map_and_slope(state)
            velocity = value - state
            going = moving(search)
            before, after = _energy(search.velocity), _energy(velocity)
            lower = jax.lax.stop_gradient(after < before)
            taken = going & lower
            fraction = jnp.where(lower, jnp.minimum(2 * search.fraction, 1), search.fraction / 2)
            return Search(
                state=jnp.where(taken, state, search.state),
                velocity=jnp.where(taken, velocity, search.velocity),
                slope=jnp.where(taken, slope, search.slope),
                fraction=fraction,
                num_steps=search.num_steps + going.astype(state.dtype),
            )

        value, slope = problem.map_and_slope(y0)
        batch, dtype = y0.shape[1:], y0.dtype
        start = Search(
            state=y0,
            velocity=value - y0,
            slope=slope,
            fraction=jnp.ones(batch, dtype),
            num_steps=jnp.zeros(batch, dtype),
        )
        search = repeat(advance, start, moving, self.max_steps, adjoint)
        return Solved(
            state=search.state,
            num_steps=jax.lax.stop_gradient(search.num_steps).astype(jnp.int32),
            time=jnp.zeros(batch, dtype),
            finished=~moving(search),
        )


def _energy(velocity: State) -> Float[Array, "*batch"]:
    return jnp.sum(velocity**2, axis=0)
