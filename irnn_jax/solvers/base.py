"""What a solver is, and the one way in which all of them run diffrax."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from irnn_jax.max_norm import max_norm
from irnn_jax.problem import Problem, State
from irnn_jax.solvers.chord import Chord
from irnn_jax.together import repeat_together


class Solved(NamedTuple):
    """Where a solver stopped, converged or not: that is judged once, by its caller.

    Attributes:
        state: the last iterates, (n, *batch).
        num_steps: how many steps each sample took, rejected ones included, (*batch).
        time: for how many time constants the flow was followed, (*batch); 0 by a solver that does
            not control its error, and so cannot tell a limit cycle from its own instability.
        finished: whether a sample ended by itself, and not with the last step it was given,
            (*batch).
        residual: max|F| at the state, (*batch); None where the solver did not evaluate it there.
        chord: a linearisation that all samples share, which the adjoint can use; None without.
    """

    state: State
    num_steps: Int[Array, "*batch"]
    time: Float[Array, "*batch"] | float = 0.0
    finished: Bool[Array, "*batch"] | bool = True
    residual: Float[Array, "*batch"] | None = None
    chord: Chord | None = None


@runtime_checkable
class Solver(Protocol):
    """How to reach the equilibrium: a frozen, keyword-only, hashable dataclass.

    `tolerance` is the largest residual max|f(A Y + b) - Y| that counts as converged; None stands
    for `default_tolerance` of the state's dtype.
    """

    @property
    def tolerance(self) -> float | None:
        """Largest residual that counts as converged."""
        ...

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Iterate from y0, (n, *batch). `adjoint` says how diffrax's loop is differentiated.

        A method that is written for one sample gets its batch from `sample_by_sample`.
        """
        ...


@runtime_checkable
class Escalating(Protocol):
    """A solver that may leave the flow, and knows one that keeps closer to it."""

    def more_cautious(self) -> Solver:
        """What to try next, from the start, where this one ended at an unstable equilibrium."""
        ...


Solve = TypeVar("Solve", bound=Callable[..., Solved])


def sample_by_sample(solve: Solve) -> Solve:
    """The `solve` of a whole batch, from one that is written for a single sample (n,)."""

    @functools.wraps(solve)
    def solve_batch(
        self: Any, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint
    ) -> Solved:
        if y0.ndim == 1:
            solved = solve(self, problem, y0, adjoint)
            # A number that is the same for all samples becomes one for each.
            return solved._replace(
                time=jnp.asarray(solved.time, y0.dtype), finished=jnp.asarray(solved.finished)
            )
        out = Solved(*(-1 for _ in Solved._fields))  # pyright: ignore[reportArgumentType]
        problem, axes = problem.along_last_axis()
        one_axis_less = functools.partial(solve_batch, self, adjoint=adjoint)
        return jax.vmap(one_axis_less, in_axes=(axes, -1), out_axes=out)(problem, y0)

    return cast(Solve, solve_batch)


def default_tolerance(dtype: Any) -> float:
    """eps^(3/4): 1.8e-12 in float64, 6.4e-6 in float32.

    Above the rounding of f(A Y + b) for weights of order 30 and rows of hundreds, and small
    enough for Newton's last step to leave an error near rounding.
    """
    return float(jnp.finfo(dtype).eps) ** 0.75


def tolerance_of(solver: Solver, problem: Problem, dtype: Any) -> float | Float[Array, "*batch"]:
    """The problem's tolerance for each sample, else the solver's, else the default of the dtype."""
    if problem.tolerance is not None:
        return problem.tolerance
    return default_tolerance(dtype) if solver.tolerance is None else solver.tolerance


def check_positive(**values: float | int | None) -> None:
    """Raise a ValueError naming the first value that is not a positive number."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def check_tolerance(tolerance: ArrayLike | None) -> None:
    """Raise a ValueError unless it is None, a positive number, or a traced one."""
    if tolerance is None:
        return
    if jnp.shape(tolerance) != ():
        raise ValueError(f"tolerance must be one number, got shape {jnp.shape(tolerance)}")
    if not isinstance(tolerance, Tracer):
        check_positive(tolerance=np.asarray(tolerance).item())


Carry = TypeVar("Carry")


def repeat(
    advance: Callable[[Array, Carry], Carry],
    start: Carry,
    moving: Callable[[Carry], Bool[Array, "*batch"]],
    max_steps: int,
    adjoint: diffrax.AbstractAdjoint,
    steps_a_look: int = 1,
) -> Carry:
    """`advance(number, carry)` until no sample is moving, for iterations that follow no flow.

    `Unrolled` takes all steps: reverse mode needs to know how many there are.
    """
    if isinstance(adjoint, diffrax.ForwardMode):
        return repeat_together(advance, start, moving, max_steps, steps_a_look)
    return jax.lax.scan(
        lambda carry, number: (jax.checkpoint(advance)(number, carry), None),
        start,
        jnp.arange(max_steps),
    )[0]


def velocity(t: Any, y: State, problem: Problem) -> State:
    """The flow's vector field F(Y) = map(Y) - Y (eqs. 7 and 8)."""
    del t
    return problem.map(y) - y


def residual_of(problem: Problem, solved: Solved) -> Float[Array, "*batch"]:
    """max|F| where a solver stopped, as it handed it on, or evaluated now."""
    if solved.residual is not None:
        return solved.residual
    return max_norm(velocity(None, solved.state, problem))


def resting(tolerance: float | Array) -> Callable[..., Bool[Array, ""]]:
    """The condition of an event that ends the flow where max|F(Y)| is within the tolerance."""

    def at_rest(t: Any, y: State, args: Problem, **kwargs: Any) -> Bool[Array, ""]:
        del kwargs
        # Written so that a residual of NaN ends the solve: nothing after it can be finite.
        return ~(max_norm(velocity(t, y, args)) > tolerance)

    return at_rest


def integrate(
    problem: Problem,
    y0: Any,
    *,
    vector_field: Callable[[Any, Any, Problem], Any] = velocity,
    solver: diffrax.AbstractSolver,
    controller: diffrax.AbstractStepSizeController,
    first_step: float | None,
    max_steps: int,
    adjoint: diffrax.AbstractAdjoint,
    at_rest: Callable[..., Bool[Array, ""]] | None,
    max_time: float = float("inf"),
) -> tuple[Any, Int[Array, ""], Float[Array, ""]]:
    """Run `diffrax.diffeqsolve` until `at_rest`: the last iterate, the number of steps, the time.

    What diffrax thinks of the result is not asked: to it, reaching `max_time` is success.

    `at_rest` is an event's condition, or None to take all `max_steps` steps; `max_time` is in units
    of the layer's time constant.
    """
    # diffrax promotes all that is in y0 to the dtype of its times: so this is the narrowest there.
    dtypes = (leaf.dtype for leaf in jax.tree.leaves(y0))
    time = functools.partial(jnp.asarray, dtype=min(dtypes, key=lambda dtype: dtype.itemsize))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field),
        solver,
        t0=time(0.0),
        t1=time(max_time),
        dt0=None if first_step is None else time(first_step),
        y0=y0,
        args=problem,
        stepsize_controller=controller,
        event=None if at_rest is None else diffrax.Event(at_rest),
        adjoint=adjoint,
        max_steps=max_steps,
        throw=False,
    )
    last = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
    assert solution.ts is not None
    return last, jnp.asarray(solution.stats["num_steps"], jnp.int32), solution.ts[-1]
