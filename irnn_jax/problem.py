"""The one idea that carries the library: a batch of fixed points Y = g(Y; x), with products.

    value(Y)                         g(Y; x) of every sample
    linearise(Y) -> J v, J^T w       products with the Jacobian of every sample at Y

That is all a kind of problem must have (`irnn_jax/networks/`). What it can do faster, by a matrix
that can be factorised or a proof that it contracts, are methods with a default here, by products
alone. Solvers and gradients ask for them and never for the kind.

States have two axes, of which `layout` says which one the neurons have; what there is one of for
each sample keeps an axis of length one for the neurons.
"""

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from irnn_jax.iterations.acceleration import Acceleration
from irnn_jax.linalg.krylov import bicgstab, gmres
from irnn_jax.linalg.layout import Layout
from irnn_jax.xla.conditional import run_if
from irnn_jax.xla.loops import Loop, Plain

State = Float[Array, "*state"]
Numbers = Float[Array, "*numbers"]
Flags = Bool[Array, "*numbers"]

# Of the adjoint by iterations: while each step leaves less than this of the change, and how often.
PLAIN_RATIO, PLAIN_STEPS, BICGSTAB_STEPS = 0.6, 60, 300


@runtime_checkable
class DampedSystem(Protocol):
    """The matrices (1 + damping) I - J of a batch, for any number of solves with them.

    They are solved in float32, in less time and memory than in float64: what a solve leaves of a
    step is the next step's to find, by F in the precision of the state.

    `is_iterative` says whether a solve is a loop, of which a program should have one.
    """

    is_iterative: ClassVar[bool]

    def solve(self, rhs: State) -> State:
        """Solve ((1 + damping) I - J) x = rhs, in float32."""
        ...

    def determinant_is_positive(self) -> Flags:
        """Whether each matrix's determinant is positive; true when unknown.

        It is negative only if an odd number of real eigenvalues of J - I lie above `damping`.
        """
        ...


class Near(NamedTuple):
    """What iterations made of samples whose equilibrium is near.

    Attributes:
        state: where they ended.
        residual: max|F| there, of the samples that took part.
        num_steps: of each.
    """

    state: State
    residual: Numbers
    num_steps: Numbers


class Coarse(NamedTuple):
    """A map as it is fastest to evaluate, in single precision or laid out otherwise.

    Attributes:
        function: y -> g(y).
        state: where it begins.
        layout: of these states.
        turned: these states as the problem has them, and back.
    """

    function: Callable[[State], State]
    state: State
    layout: Layout
    turned: Callable[[State], State]


class Linearisation(eqx.Module):
    """The Jacobian J of every sample at one state, by products; a pytree, differentiable."""

    layout: eqx.AbstractClassVar[Layout]
    # Layers that the feed-forward part of J passes through: it is nilpotent of this index.
    depth: eqx.AbstractVar[int]

    @abc.abstractmethod
    def product(self, transposed: bool) -> Callable[[State], State]:
        """V -> J v, or w -> J^T w."""

    def feedforward_pullback(self, w: State) -> State:
        """J_Q^T w, J_Q the part of J through feed-forward weights; a cell's state has none."""
        return jnp.zeros_like(w)

    def solve(self, rhs: State, transposed: bool) -> State:
        """(I - J)^-1 rhs, or (I - J^T)^-1 rhs. Not trusted: its callers check the residual.

        By iteration: w <- rhs + J^T w while that is fast, then BiCGStab, then GMRES, each for what
        the one before has left.
        """
        return solve_by_products(self.product(transposed), rhs, self.layout)


class Problem(eqx.Module):
    """A batch of fixed-point problems Y = value(Y).

    `tolerance` is the largest residual that counts as converged, of each sample; None: the
    solver's. `contracts` says of each sample whether it is known to have one equilibrium only;
    None: of none. `factorises` says whether a Newton step costs about as little as a few products.
    """

    layout: eqx.AbstractClassVar[Layout]
    tolerance: eqx.AbstractVar[Numbers | None]
    contracts: eqx.AbstractVar[Flags | None]
    factorises: ClassVar[bool] = False
    # Whether a step is arithmetic on a handful of neurons, without a library's product.
    is_arithmetic: ClassVar[bool] = False

    @abc.abstractmethod
    def value(self, y: State) -> State:
        """g(Y)."""

    @abc.abstractmethod
    def linearise(self, y: State) -> Linearisation:
        """J at Y."""

    def value_and_slope(self, y: State) -> tuple[State, Array]:
        """g(Y), and what `damped` wants to know there: here nothing."""
        return self.value(y), jnp.zeros((), y.dtype)

    def damped(self, y: State, slope: Array, damping: Numbers) -> DampedSystem:
        """(1 + damping) I - J, in the precision of the state.

        Its own accuracy only affects the number of steps: the outer iteration judges itself by the
        true residual, so an inexact step is an inexact Newton step and never a wrong answer.
        """
        del slope
        return ProductSystem(
            linear=self.linearise(y),
            scale=(1 + damping).astype(y.dtype),
            accuracy=self.linear_accuracy(y.dtype),
        )

    def linear_accuracy(self, dtype: Any) -> float:
        """Relative error that the solves of `damped` leave, in units of 1/rate.

        eps^(1/4): two such solves a step leave eps^(1/2) of the distance to the equilibrium.
        """
        return float(jnp.finfo(dtype).eps) ** 0.25

    def first_evaluations(
        self, y: State, tolerance: float | Numbers, loop: Loop
    ) -> tuple[State, Array, State, Numbers, Numbers]:
        """Y, the slope and F there, max|F|, and what the way there left: a continuation's start.

        A kind that can prove a contraction may go some of the way by the map itself.
        """
        del tolerance, loop
        value, slope = self.value_and_slope(y)
        velocity = value - y
        size = self.layout.size(velocity)
        return y, slope, velocity, size, jnp.full(size.shape, jnp.inf, jnp.float32)

    def coarse(self, y: State) -> Coarse:
        """G as the flow is followed: where steps err by a hundredth, it need not be exact."""
        return Coarse(self.value, y, self.layout, lambda states: states)

    def settle(
        self, y: State, going: Flags, tolerance: float | Numbers, loop: Loop, shared: Any
    ) -> tuple[Near, Any]:
        """From Y, near an equilibrium that attracts, to it, for the samples that are `going`.

        `shared` is what the chunk before has left for the next one. Plainly while that is fast, and
        what is left is accelerated.
        """
        found, done = iterate_plainly(self, y, going, tolerance, loop)

        def more(found: Near, y: State, left: Flags) -> Near:
            return merged(found, accelerate(self, found.state, left, tolerance, loop), left)

        return loop.run_if(going & ~done, more, found, y, going & ~done), shared

    def solve_in_chunks(
        self, solve: Callable[["Problem", State, Any], tuple[Any, Any]], y0: State, loop: Loop
    ) -> Any:
        """What `solve(problem, y0, shared) -> (shared, found)` finds, where it pays chunk by chunk.

        `shared` is what `settle` returns beside what it found; None at first.
        """
        del loop
        return solve(self, y0, None)[1]

    def run_for(self, work: Callable[..., Any], needed: Flags, state: Any, *given: Any) -> Any:
        """`work(state, *given)` for the samples that need it; it keeps the state of the others."""
        del needed
        return work(state, *given)

    def each_sample(self) -> tuple["Problem", Any] | None:
        """The problem, and the `in_axes` with which `jax.vmap` goes through its samples.

        None where it cannot: the batch is then one system, of samples that do not meet.
        """
        return None

    def jacobian(self, y: State) -> Float[Array, "samples n n"]:
        """J itself, of each sample, where there is a matrix that is small enough."""
        raise TypeError(f"{type(self).__name__} knows its Jacobian by products alone")

    def unproven(self) -> "Problem":
        """The same, with nothing known of a contraction."""
        return self

    def in_precision(self, dtype: Any) -> "Problem | None":
        """The same in another precision, converged to its `default_tolerance`.

        None: it cannot be had; a cell decides about its own.
        """
        del dtype
        return None


def default_tolerance(dtype: Any) -> float:
    """eps^(3/4): 1.8e-12 in float64, 6.4e-6 in float32.

    Above the rounding of f(A Y + b) for weights of order 30 and rows of hundreds, and small
    enough for Newton's last step to leave an error near rounding.
    """
    return float(jnp.finfo(dtype).eps) ** 0.75


class ProductSystem(eqx.Module):
    """scale I - J, known by products: solved by GMRES."""

    linear: Linearisation
    scale: Numbers
    accuracy: float = eqx.field(static=True)
    is_iterative: ClassVar[bool] = True

    def solve(self, rhs: State) -> State:
        """Solve (scale I - J) x = rhs."""
        rhs = rhs.astype(self.scale.dtype)
        solved: State = _solve_damped(False, self.accuracy, self.linear, self.scale, rhs)
        return solved.astype(jnp.float32)

    def determinant_is_positive(self) -> Flags:
        """Nothing is known of the determinant."""
        return jnp.ones_like(self.scale, bool)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _solve_damped(
    transposed: bool, accuracy: float, linear: Linearisation, scale: Numbers, rhs: State
) -> State:
    """(scale I - J) x = rhs, or with J^T; it has the derivatives of the system alone."""
    return gmres(_damped(transposed, linear, scale), rhs, accuracy, linear.layout)


def _damped(transposed: bool, linear: Linearisation, scale: Numbers) -> Callable[[State], State]:
    product = linear.product(transposed)
    return lambda v: scale * v - product(v)


def _damped_forward(transposed, accuracy, linear, scale, rhs):
    solution = _solve_damped(transposed, accuracy, linear, scale, rhs)
    return solution, (linear, scale, solution)


def _damped_backward(transposed, accuracy, saved, cotangent: State):
    linear, scale, solution = saved
    bar: State = _solve_damped(not transposed, accuracy, linear, scale, cotangent)
    _, pullback = jax.vjp(lambda *of: -_damped(transposed, *of)(solution), linear, scale)
    return *pullback(bar), bar


_solve_damped.defvjp(_damped_forward, _damped_backward)


def merged(before: Near, after: Near, again: Flags) -> Near:
    """What was found, of the samples that went on."""
    return Near(
        state=jnp.where(again, after.state, before.state),
        residual=jnp.where(again, after.residual, before.residual),
        num_steps=before.num_steps + after.num_steps,
    )


def iterate_plainly(
    problem: Problem, y: State, going: Flags, tolerance: float | Numbers, loop: Loop
) -> tuple[Near, Flags]:
    """Y <- g(Y) for the samples that are `going`, while it is fast, and which of them are done.

    What is left of the way is a geometric series of the last changes; of a residual r there is an
    error of r/rate in Y and r/rate^2 in the gradient.
    """
    layout = problem.layout

    def advance(number: Array, at: tuple[State, Numbers, Flags, Flags, Numbers]):
        y, before, active, done, steps = at
        value = problem.value(y)
        change = layout.size(value - y)
        ratio = jnp.where(number == 0, PLAIN_RATIO, change / before)
        rate = 1 - jnp.minimum(ratio, PLAIN_RATIO)
        done = done | (active & (change * ratio <= tolerance * rate**2))
        # NaN compares false, and ends the sample.
        on = active & ~done & (ratio <= PLAIN_RATIO)
        steps = steps + active.astype(steps.dtype)
        return jnp.where(active, value, y), change, on, done, steps

    zeros = jnp.zeros_like(layout.size(y))
    start = (y, zeros, going, jnp.zeros(zeros.shape, bool), zeros)
    y, change, _, done, steps = loop.repeat(advance, start, lambda at: at[2], PLAIN_STEPS)
    # The change was the residual before the last step.
    return Near(y, jnp.where(done, change * PLAIN_RATIO, jnp.inf), steps), done


def accelerate(
    problem: Problem,
    y: State,
    going: Flags,
    tolerance: float | Numbers,
    loop: Loop,
    *,
    acceleration: Acceleration = Acceleration(max_steps=100),
    polish_steps: int = 30,
) -> Near:
    """Anderson acceleration of Y <- g(Y) from Y, for the samples that are `going`, twice at most.

    A residual r leaves an error of up to r/rate in Y and r/rate^2 in the gradient. Where the rate
    is small, next to a fold, that takes a smaller residual, down to rounding: the second time.
    """
    layout = problem.layout

    def near(y: State) -> State:
        return jnp.where(going, problem.value(y), y)

    smallest = 8 * float(jnp.finfo(y.dtype).eps)

    def again(number: Array, carry: tuple[Near, Array]) -> tuple[Near, Array]:
        at, enough = carry
        limit = jnp.where(number == 0, acceleration.max_steps, polish_steps).astype(y.dtype)
        end = acceleration(near, at.state, enough, layout, loop, limit)
        residual = layout.size(end.velocity)
        better = (number == 0) | (residual < at.residual)
        slowness = jnp.maximum(1, end.slowness(layout, acceleration.mixing) / 4)
        enough = jnp.maximum(jnp.minimum(smallest, tolerance), tolerance / slowness**2)
        found = Near(
            state=jnp.where(better, end.state, at.state),
            residual=jnp.where(better, residual, at.residual),
            num_steps=at.num_steps + end.num_steps,
        )
        return found, enough.astype(y.dtype)

    zeros = jnp.zeros_like(layout.size(y))
    start = Near(y, jnp.full_like(zeros, jnp.inf), zeros), tolerance + zeros
    return loop.repeat(again, start, lambda carry: carry[0].residual > carry[1], 2)[0]


def solve_by_products(product: Callable[[State], State], rhs: State, layout: Layout) -> State:
    """Solve w = rhs + K w for each sample, to eps^(3/4) of its rhs, by products with K alone."""
    accuracy = float(jnp.finfo(rhs.dtype).eps) ** 0.75
    enough = accuracy * layout.size(rhs)
    w = _solve_plainly(product, rhs, enough, layout)

    def operator(v: State) -> State:
        return v - product(v)

    def unsolved(w: State) -> Flags:
        return layout.size(rhs - operator(w)) > enough

    def by_bicgstab(w: State) -> State:
        found = bicgstab(operator, rhs, w, enough, layout, BICGSTAB_STEPS)
        return jnp.where(jnp.isfinite(layout.size(found)), found, 0)

    def by_gmres(w: State) -> State:
        left = unsolved(w)
        missing = jnp.where(left, rhs - operator(w), 0)
        return w + gmres(operator, missing, accuracy, layout)

    w = run_if(unsolved(w), by_bicgstab, w)
    return run_if(unsolved(w), by_gmres, w)


def _solve_plainly(
    product: Callable[[State], State], rhs: State, enough: Numbers, layout: Layout
) -> State:
    """W <- rhs + K w while the change shrinks fast, of each sample."""

    def advance(number: Array, at: tuple[State, Numbers, Flags]) -> tuple[State, Numbers, Flags]:
        del number
        w, before, going = at
        after = rhs + product(w)
        change = layout.size(after - w)
        # What w has missed is the change; NaN compares false, and ends the sample.
        going = going & (change > enough) & (change <= PLAIN_RATIO * before)
        return after, change, going

    size = layout.size(rhs)
    start = (rhs, jnp.full_like(size, jnp.inf), size > 0)
    return Plain().repeat(advance, start, lambda at: at[2], PLAIN_STEPS)[0]


def solve_with_lineax(
    product: Callable[[State], State],
    rhs: State,
    linear_solver: lx.AbstractLinearSolver,
) -> State:
    """Solve w = rhs + K w by a solver of lineax: the batch as one system. It never raises."""
    operator = lx.FunctionLinearOperator(
        lambda w: w - product(w), jax.ShapeDtypeStruct(rhs.shape, rhs.dtype)
    )
    return lx.linear_solve(operator, rhs, linear_solver, throw=False).value
