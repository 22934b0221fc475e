"""What a solver is, what it returns, and the one way in which those of diffrax are run."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from irnn_jax.problem import Problem, State, default_tolerance
from irnn_jax.xla.loops import Loop


class Solved(NamedTuple):
    """The record of a solve: where each sample stopped, and what is known of it.

    What there is one of for each sample keeps an axis of length one for the neurons.

    Attributes:
        state: the last iterates.
        residual: max|F| at the state.
        num_steps: how many steps each sample took, rejected ones included.
        time: for how many time constants the flow was followed; 0 by a solver that does not
            control its error, and so cannot tell a limit cycle from its own instability.
        finished: whether a sample ended by itself, and not with the last step it was given.
        error: of the way, relative to the state or to what decided about it; 0 by a solver that
            does not follow the flow.
        sensitivity: how much a small disturbance has grown on the way, at least 1.
        status: a number of `irnn_jax.Status`; None before it is judged, once and for all solvers
            alike, by `irnn_jax.implicit`.
    """

    state: State
    residual: Float[Array, "*numbers"]
    num_steps: Int[Array, "*numbers"]
    time: Float[Array, "*numbers"]
    finished: Bool[Array, "*numbers"]
    error: Float[Array, "*numbers"]
    sensitivity: Float[Array, "*numbers"]
    status: Int[Array, "*numbers"] | None = None


def solved_at(
    problem: Problem,
    state: State,
    *,
    num_steps: Array,
    time: Any = 0.0,
    finished: Any = True,
    residual: Array | None = None,
    error: Any = 0.0,
) -> Solved:
    """The record of where a solver stopped, with F evaluated there unless that was done."""
    if residual is None:
        residual = problem.layout.size(problem.value(state) - state)
    like = jax.lax.stop_gradient(residual)

    def numbers(value: Any, dtype: Any) -> Array:
        return jnp.broadcast_to(jax.lax.stop_gradient(value), like.shape).astype(dtype)

    return Solved(
        state=state,
        residual=residual,
        num_steps=numbers(num_steps, jnp.int32),
        time=numbers(time, like.dtype),
        finished=jnp.broadcast_to(finished, like.shape),
        error=numbers(error, like.dtype),
        sensitivity=jnp.ones_like(like),
    )


def unsolved(state: State, like: Array) -> Solved:
    """The record of a batch that no solver has seen; `like` is one number a sample."""
    zeros = jnp.zeros_like(like)
    return Solved(
        state=state,
        residual=jnp.full_like(like, jnp.inf),
        num_steps=zeros.astype(jnp.int32),
        time=zeros,
        finished=jnp.ones(like.shape, bool),
        error=zeros,
        sensitivity=jnp.ones_like(like),
    )


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

    def solve(self, problem: Problem, y0: State, loop: Loop) -> Solved:
        """Iterate from y0. `loop` repeats the steps; it knows how they are differentiated.

        A method that is written for one sample gets its batch from `sample_by_sample`.
        """
        ...


def makes_sure(solver: Solver) -> bool:
    """Whether the flow is followed closely where the solver cannot be sure (`Auto`)."""
    return getattr(solver, "makes_sure", False)


Solve = TypeVar("Solve", bound=Callable[..., Solved])


def sample_by_sample(solve: Solve) -> Solve:
    """The `solve` of a whole batch, from one that follows one sample, where the samples part."""

    @functools.wraps(solve)
    def solve_batch(self: Any, problem: Problem, y0: State, loop: Loop) -> Solved:
        parted = problem.each_sample()
        if parted is None or y0.ndim == 1:
            return solve(self, problem, y0, loop)
        problem, axes = parted
        one = functools.partial(solve_batch, self, loop=loop)
        out: Any = Solved(-1, -1, -1, -1, -1, -1, -1)  # pyright: ignore[reportArgumentType]
        return jax.vmap(one, in_axes=(axes, -1), out_axes=out)(problem, y0)

    return cast(Solve, solve_batch)


def tolerance_of(solver: Solver, problem: Problem, dtype: Any) -> Any:
    """The problem's tolerance for each sample, else the solver's, else the default of the dtype."""
    if problem.tolerance is not None:
        return problem.tolerance
    return default_tolerance(dtype) if solver.tolerance is None else solver.tolerance


def tolerance_at(solver: Solver, problem: Problem, state: State) -> Any:
    """The largest residual that counts as converged at a state, relative to its scale."""
    return tolerance_of(solver, problem, state.dtype) * problem.scale_at(state)


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


def follow_by_diffrax(
    problem: Problem,
    y0: State,
    loop: Loop,
    *,
    solver: diffrax.AbstractSolver,
    controller: diffrax.AbstractStepSizeController,
    first_step: float | None,
    max_steps: int,
    tolerance: Callable[[State], Any] | None,
    max_time: float = float("inf"),
) -> tuple[State, Int[Array, ""], Float[Array, ""]]:
    """Run `diffrax.diffeqsolve` along the flow: the last iterate, the number of steps, the time.

    Until max|F(Y)| of all samples is within the tolerance at Y; None takes all `max_steps` steps.
    What diffrax thinks of the result is not asked: to it, reaching `max_time` is success.
    """
    layout = problem.layout

    def velocity(t: Any, y: State, problem: Problem) -> State:
        """The flow's vector field F(Y) = g(Y) - Y (eqs. 7 and 8)."""
        del t
        moving = problem.value(y) - y
        # A sample that is not a number stays so, and keeps no other from a step.
        return jnp.where(layout.all(jnp.isfinite(moving)), moving, 0)

    def at_rest(t: Any, y: State, args: Problem, **kwargs: Any) -> Bool[Array, ""]:
        del kwargs
        # A residual of NaN ends the sample: nothing after it can be finite.
        assert tolerance is not None
        return ~jnp.any(layout.size(velocity(t, y, args)) > tolerance(y))

    time = functools.partial(jnp.asarray, dtype=y0.dtype)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        solver,
        t0=time(0.0),
        t1=time(max_time),
        dt0=None if first_step is None else time(first_step),
        y0=y0,
        args=problem,
        stepsize_controller=controller,
        event=None if tolerance is None else diffrax.Event(at_rest),
        adjoint=loop.diffrax_adjoint(),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ts is not None
    assert solution.ys is not None
    return solution.ys[-1], jnp.asarray(solution.stats["num_steps"], jnp.int32), solution.ts[-1]
