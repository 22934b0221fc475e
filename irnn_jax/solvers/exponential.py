"""The flow by an explicit exponential method, and faster iterations where it settles."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.lazily import at_most_once, at_most_once_or_unasked
from irnn_jax.looks import steps_a_look
from irnn_jax.max_norm import max_norm
from irnn_jax.precision import in_precision
from irnn_jax.problem import DenseProblem, Problem, State
from irnn_jax.solvers.anderson import Anderson
from irnn_jax.solvers.base import (
    Solved,
    Solver,
    check_positive,
    default_tolerance,
    repeat,
    tolerance_of,
)
from irnn_jax.solvers.chord import Chord, chord_pays, unknown_chord
from irnn_jax.solvers.equation import Equation, piece_width
from irnn_jax.solvers.flow_step import Motion, flow_step
from irnn_jax.solvers.in_pieces import where_it_pays
from irnn_jax.solvers.pseudo_transient import PseudoTransient
from irnn_jax.solvers.refine import settle_refined


class Found(NamedTuple):
    """What the rest of the way leads to.

    Attributes:
        state: (n, *batch).
        residual: max|F| there, of the samples that went it, (*batch).
        num_steps: (*batch).
    """

    state: State
    residual: Float[Array, "*batch"]
    num_steps: Float[Array, "*batch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exponential:
    """Follow the flow with products with A alone, then settle: for wide layers.

    The decay -Y is integrated exactly and f(A Y + b) to second order (ETD2RK: Cox and Matthews,
    "Exponential time differencing for stiff systems", J. Comput. Phys. 176, 2002):

        a  = Y + (1 - e^-h) F(Y)
        Y1 = a + (h - 1 + e^-h)/h (f(A a + b) - f(A Y + b))

    and the last term is the error of a, by which h is chosen. Two products with A a step. Where
    the steps contract towards an equilibrium less than `accelerate_within` ahead, what settles
    there is iterated (`solvers/settle.py`), and what does not by Anderson acceleration; a sample
    that is led elsewhere counts as not converged. In float64 the flow and most of the iterations
    are in float32, and the residual decides (`solvers/refine.py`). Strong weights make the flow
    stiff, and the steps short: then `PseudoTransient` is faster, and
    `Cascade(solvers=(Exponential(), PseudoTransient()))` has both.

    Attributes:
        first_step: h of the first step, in units of the layer's time constant.
        error_tolerance: the error of a step, in activities, that h aims for.
        reject_above: a step with a larger error than this is taken back.
        accelerate_within: the distance to the equilibrium, in activities, that is not followed.
        max_steps: along the flow, rejected ones included.
        acceleration: for what does not settle by itself; its tolerance is not used.
        polish_steps: of the acceleration, for the last digits, next to a fold.
        tolerance: largest residual that counts as converged; None: eps^(3/4) of the dtype.
    """

    first_step: float = 1.0
    error_tolerance: float = 0.03
    reject_above: float = 0.15
    accelerate_within: float = 0.02
    max_steps: int = 100
    acceleration: Any = Anderson(max_steps=100)
    polish_steps: int = 30
    tolerance: float | None = None

    def __post_init__(self):
        numbers = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if not isinstance(numbers.pop("acceleration"), Anderson):
            raise ValueError(f"acceleration must be an Anderson, got {self.acceleration!r}")
        check_positive(**numbers)

    def more_cautious(self) -> Solver:
        """Pseudo-transient continuation that keeps close to the flow."""
        return PseudoTransient(tolerance=self.tolerance).more_cautious()

    def solve(self, problem: Problem, y0: State, adjoint: diffrax.AbstractAdjoint) -> Solved:
        """Follow the flow from y0 until it settles, and go the rest of the way."""
        # Reverse mode can neither leave out what nobody needs, nor go through what follows.
        plain = isinstance(adjoint, diffrax.ForwardMode)
        if not (plain and isinstance(problem, DenseProblem) and y0.ndim == 2):
            tolerance = tolerance_of(self, problem, y0.dtype)
            motion = self._follow(problem.map, y0, problem.contracts, tolerance, adjoint)
            found = self._accelerate(problem, motion.state, motion.settling, tolerance, adjoint)
            return self._chosen(problem, motion, found, tolerance)
        count = y0.shape[1]

        def piece(chord: Chord, part: Any, seen: Array) -> tuple[Chord, Solved]:
            del seen
            problem, y0 = part
            return self._solve_piece(problem, y0, chord, count, adjoint)

        chord, width = unknown_chord(len(y0)), piece_width(problem.matrix)
        chord, solved = where_it_pays(piece, chord, (problem, y0), count=count, width=width)
        pays = chord_pays(len(y0), is_shared=problem.matrix.shape[-1] == 1)
        return solved._replace(chord=chord if pays else None)

    def _solve_piece(
        self,
        problem: DenseProblem,
        y0: State,
        chord: Chord,
        num_samples: int,
        adjoint: diffrax.AbstractAdjoint,
    ) -> tuple[Chord, Solved]:
        """`solve` for a piece of a batch of `num_samples`, and what the next one can use."""
        tolerance = tolerance_of(self, problem, y0.dtype)
        # Steps with an error of a hundredth need no more than single precision.
        motion, rest = self._follow_in_rows(problem, y0, adjoint)
        motion = in_precision(motion, y0.dtype)._replace(settling=rest)
        found, chord = self._settle(problem, motion, tolerance, chord, num_samples, adjoint)
        return chord, self._chosen(problem, motion, found, tolerance)

    def _chosen(
        self, problem: Problem, motion: Motion, found: Found, tolerance: float | Array
    ) -> Solved:
        """Where the flow led, or what it leads to."""
        there = max_norm(found.state - motion.state) <= 2 * self.accelerate_within
        if problem.contracts is not None:
            there = there | problem.contracts
        there = there & motion.settling
        residual = jnp.where(there, found.residual, max_norm(motion.velocity))
        num_steps = motion.num_steps + found.num_steps
        return Solved(
            state=jnp.where(there, found.state, motion.state),
            num_steps=jax.lax.stop_gradient(num_steps).astype(jnp.int32),
            time=jax.lax.stop_gradient(motion.time),
            finished=~(residual > tolerance),
            residual=residual,
        )

    def _follow_in_rows(
        self, problem: DenseProblem, y0: State, adjoint: diffrax.AbstractAdjoint
    ) -> tuple[Motion, Bool[Array, " batch"]]:
        """The flow of a batch in float32, and which of its samples need no more of it."""
        equation = Equation.of(problem).laid_out().astype(jnp.float32)
        enough = default_tolerance(jnp.float32)

        def function(y: State) -> State:
            return equation.value(equation.drive + equation.times(y))

        known = None if problem.contracts is None else equation.each(problem.contracts)
        start = equation.turned(y0.astype(jnp.float32))
        motion = self._follow(function, start, known, enough, adjoint, equation.size)
        rest = motion.settling | (equation.size(motion.velocity) <= enough)
        numbers = Motion(*(leaf.reshape(-1) for leaf in motion))
        states = {name: equation.turned(getattr(motion, name)) for name in ("state", "velocity")}
        return numbers._replace(**states), rest.reshape(-1)

    def _follow(
        self,
        function: Callable[[State], State],
        y0: State,
        contracts: Bool[Array, "*samples"] | None,
        tolerance: float | Array,
        adjoint: diffrax.AbstractAdjoint,
        size: Callable[[State], Array] = max_norm,
    ) -> Motion:
        """The flow of y -> function(y), until each sample settles; `size` is its norm."""
        like = size(y0)
        zeros = jnp.zeros_like(like)
        # With one equilibrium only there is no flow to follow.
        settling = jnp.zeros(like.shape, bool) if contracts is None else contracts

        def first_velocity(_: State, y0: State) -> State:
            return function(y0) - y0

        still = jnp.zeros_like(y0)
        if isinstance(adjoint, diffrax.ForwardMode):
            velocity = at_most_once_or_unasked(jnp.any(~settling), first_velocity, still, y0)
        else:
            velocity = first_velocity(still, y0)
        start = Motion(
            state=y0,
            velocity=velocity,
            step_size=jnp.full_like(like, self.first_step),
            settling=settling,
            time=zeros,
            num_steps=zeros,
        )

        def moving(motion: Motion) -> Array:
            # A residual of NaN compares false, and ends the sample.
            return ~motion.settling & (size(motion.velocity) > tolerance)

        step = functools.partial(
            flow_step,
            function,
            size,
            error_tolerance=self.error_tolerance,
            reject_above=self.reject_above,
            near=self.accelerate_within,
        )

        def advance(number: Array, motion: Motion) -> Motion:
            del number
            return step(motion, moving(motion))

        every = steps_a_look(self.max_steps)
        return repeat(advance, start, moving, self.max_steps, adjoint, every)

    def _settle(
        self,
        problem: DenseProblem,
        motion: Motion,
        tolerance: float | Array,
        chord: Chord,
        num_samples: int,
        adjoint: diffrax.AbstractAdjoint,
    ) -> tuple[Found, Chord]:
        """The rest of the way, for the samples that settle."""
        equation = Equation.of(problem)
        refined, chord = settle_refined(
            equation, motion.state, motion.settling, tolerance, chord, num_samples
        )
        left = motion.settling & ~refined.done

        def accelerate(found: Found, state: State, left: Bool[Array, " batch"]) -> Found:
            more = self._accelerate(problem, state, left, tolerance, adjoint)
            return Found(
                state=jnp.where(left, more.state, found.state),
                residual=jnp.where(left, more.residual, found.residual),
                num_steps=found.num_steps + more.num_steps,
            )

        found = Found(refined.y, max_norm(refined.residual), refined.num_steps)
        found = at_most_once(jnp.any(left), accelerate, found, motion.state, left)
        return found, chord

    def _accelerate(
        self,
        problem: Problem,
        state: State,
        going: Bool[Array, "*batch"],
        tolerance: float | Array,
        adjoint: diffrax.AbstractAdjoint,
    ) -> Found:
        """The rest of the way by Anderson acceleration, for the samples that are `going`."""

        def near(y: State) -> State:
            return jnp.where(going, problem.map(y), y)

        smallest = 8 * float(jnp.finfo(state.dtype).eps)

        def again(number: Array, carry: tuple[Found, Array]) -> tuple[Found, Array]:
            at, enough = carry
            limit = jnp.where(number == 0, self.acceleration.max_steps, self.polish_steps)
            end = self.acceleration.accelerate(near, at.state, enough, adjoint, limit)
            residual = max_norm(end.velocity)
            better = (number == 0) | (residual < at.residual)
            # A residual r leaves an error of up to r/rate in Y and r/rate^2 in the gradient. Where
            # the rate is small, next to a fold, that takes a smaller residual, down to rounding.
            slowness = jnp.maximum(1, end.slowness() / 4)
            enough = jnp.maximum(jnp.minimum(smallest, tolerance), tolerance / slowness**2)
            found = Found(
                state=jnp.where(better, end.state, at.state),
                residual=jnp.where(better, residual, at.residual),
                num_steps=at.num_steps + end.num_steps,
            )
            return found, enough

        zeros = jnp.zeros(state.shape[1:], state.dtype)
        start = Found(state, jnp.full_like(zeros, jnp.inf), zeros), tolerance + zeros
        return repeat(again, start, lambda carry: carry[0].residual > carry[1], 2, adjoint)[0]
