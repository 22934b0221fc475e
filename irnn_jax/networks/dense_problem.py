"""Y = f(A Y + b) with the matrix at hand: samples lie last, (n, batch)."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from irnn_jax.activations import (
    Activation,
    accurate_slope,
    is_arithmetic,
    is_of_order_one,
    value_and_slope,
)
from irnn_jax.iterations.chord import Chord, unknown_chord
from irnn_jax.iterations.hammerstein import Hammerstein, chunk_width
from irnn_jax.iterations.near import Near, accelerate, merged
from irnn_jax.iterations.refinement import iterate_refined
from irnn_jax.linalg.dense import factorize, multiply
from irnn_jax.linalg.layout import NEURONS_FIRST, Layout
from irnn_jax.linalg.spectrum import unstable_by_matrix
from irnn_jax.linearisation import DampedSystem
from irnn_jax.networks.dense_linearisation import DenseLinearisation
from irnn_jax.networks.dense_systems import ScaledSystem, WideSystem
from irnn_jax.problem import Coarse, Problem, default_tolerance
from irnn_jax.xla.chunks import map_chunks_where_it_pays, run_for
from irnn_jax.xla.loops import Loop
from irnn_jax.xla.precision import in_precision
from irnn_jax.xla.tuning import BLOCKS_UP_TO, CONTINUE_UP_TO, DIRECT_UP_TO, EIGENVALUES_UP_TO

State = Float[Array, "n *batch"]
Numbers = Float[Array, "1 *batch"]
Damping = Float[Array, "_ *batch"]

# A step of Newton's method costs as much as five to ten evaluations of the map. The last one is
# where it starts.
MAX_EVALUATIONS = 9


class DenseProblem(Problem):
    """A (n, n, *batch), b (n, *batch).

    A has as many batch axes as b, of length one where the samples share it.

    Attributes:
        matrix: A.
        drive: b.
        activation: f.
        sizes: the layers', from input to output.
        num_samples: of the whole batch, where this is a part of one.
    """

    matrix: Float[Array, "n n *shared"]
    drive: State
    activation: Activation = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)
    tolerance: Numbers | None = None
    contracts: Bool[Array, "1 *batch"] | None = None
    scale: Numbers | None = None
    num_samples: int | None = eqx.field(static=True, default=None)
    layout: ClassVar[Layout] = NEURONS_FIRST

    @property
    def factorises(self) -> bool:
        """Up to some size."""
        return len(self.drive) <= CONTINUE_UP_TO

    @property
    def is_direct(self) -> bool:
        """Up to some more."""
        return len(self.drive) <= DIRECT_UP_TO

    @property
    def is_arithmetic(self) -> bool:
        """With few neurons, and an activation of plain arithmetic."""
        return len(self.drive) <= BLOCKS_UP_TO and is_arithmetic(self.activation)

    def begun(self, y0: State) -> Problem:
        """Activities of order one have no other scale."""
        return self if is_of_order_one(self.activation) else super().begun(y0)

    def scale_at(self, y: State) -> float | Numbers:
        """One, or that of the activities."""
        return 1.0 if is_of_order_one(self.activation) else super().scale_at(y)

    def value(self, y: State) -> State:
        """f(A Y + b)."""
        return self.activation(multiply(self.matrix, y) + self.drive)

    def value_and_slope(self, y: State) -> tuple[State, State]:
        """F and D = f' at A Y + b."""
        return value_and_slope(self.activation, multiply(self.matrix, y) + self.drive)

    def linearise(self, y: State) -> DenseLinearisation:
        """J = D A."""
        slope = accurate_slope(self.activation, multiply(self.matrix, y) + self.drive)
        return DenseLinearisation(matrix=self.matrix, slope=slope, sizes=self.sizes)

    def damped(self, y: State, slope: State, damping: Damping) -> DampedSystem:
        """Factorise I - D A/(1 + damping), and divide what is solved: fewer operations an entry.

        The damping may be each neuron's own.
        """
        matrix, slope, scale = in_precision((self.matrix, slope, 1 + damping), jnp.float32)
        n, tolerance = len(y), self.linear_accuracy(y.dtype)
        if n > DIRECT_UP_TO:
            return WideSystem(matrix=matrix, slope=slope, scale=scale, tolerance=tolerance)
        identity = jnp.eye(n, dtype=jnp.float32).reshape(n, n, *(1,) * (y.ndim - 1))
        factors = factorize(identity - (slope / scale)[:, None] * matrix)
        return ScaledSystem(factors=factors, scale=scale)

    def linear_accuracy(self, dtype: Any) -> float:
        """Some roundings of float32, unless it is wide: then as by products alone."""
        if self.drive.shape[0] <= DIRECT_UP_TO:
            return 16 * float(jnp.finfo(jnp.float32).eps)
        return super().linear_accuracy(dtype)

    def first_evaluations(
        self, y: State, tolerance: float | Numbers, loop: Loop
    ) -> tuple[State, Array, State, Numbers, Numbers]:
        """Y <- f(A Y + b) for the samples whose map contracts; the others stay where they are.

        With few neurons only while the steps are long, since one of Newton's then costs less than
        what is left: a step of `rodas3` that is three of Newton's leaves the fourth power of the
        error, so that eps^(1/4) is near enough for it. With more, to the end.
        """
        if self.contracts is None or not loop.skips:
            return super().first_evaluations(y, tolerance, loop)
        if y.ndim == 2 and len(y) > BLOCKS_UP_TO:
            found, _ = iterate_refined(
                self.hammerstein(), y, self.contracts, tolerance, unknown_chord(len(y))
            )
            y = jnp.where(found.done, found.y, y)
            y, slope, velocity, size, remaining = super().first_evaluations(y, tolerance, loop)
            return y, slope, velocity, size, jnp.where(found.done, 0, remaining)
        return _contracted(self, y, loop)

    def hammerstein(self) -> Hammerstein:
        """The same as u = b + A f(u), Y = f(u)."""
        return Hammerstein.of(self.matrix, self.drive, self.activation)

    def coarse(self, y: State) -> Coarse:
        """In float32, and in rows where that is faster."""
        if y.ndim != 2:
            return super().coarse(y)
        equation = self.hammerstein().laid_out().astype(jnp.float32)

        def function(y: State) -> State:
            return equation.value(equation.drive + equation.times(y))

        return Coarse(
            function=function,
            state=equation.turned(y.astype(jnp.float32)),
            layout=Layout(int(equation.in_rows)),
            turned=equation.turned,
        )

    def settle(
        self, y: State, going: Array, tolerance: float | Numbers, loop: Loop, shared: Chord | None
    ) -> tuple[Near, Chord | None]:
        """By products that all samples share; what these leave is accelerated."""
        if y.ndim != 2 or not loop.skips:
            return super().settle(y, going, tolerance, loop, shared)
        chord = unknown_chord(len(y)) if shared is None else shared
        refined, chord = iterate_refined(
            self.hammerstein(), y, going, tolerance, chord, self.num_samples
        )
        left = going & ~refined.done

        def more(found: Near, y: State, left: Array) -> Near:
            return merged(
                found, accelerate(self.value, y, left, tolerance, self.layout, loop), left
            )

        found = Near(refined.y, self.layout.size(refined.residual), refined.num_steps)
        return loop.run_if(jnp.any(left), more, found, y, left), chord

    def solve_in_chunks(self, solve: Callable[..., Any], y0: State, loop: Loop) -> Any:
        """In chunks that stay in a CPU's cache; a chord of the first serves the next."""
        if y0.ndim != 2 or not loop.skips:
            return super().solve_in_chunks(solve, y0, loop)
        count = y0.shape[1]
        whole = dataclasses.replace(self, num_samples=count)

        def chunk(chord: Chord, part: Any, seen: Array) -> tuple[Chord, Any]:
            del seen
            return solve(*part, chord)

        first, width = unknown_chord(len(y0)), chunk_width(self.matrix)
        return map_chunks_where_it_pays(chunk, first, (whole, y0), count=count, width=width)[1]

    def run_for(self, work: Callable[..., Any], needed: Array, state: Any, *given: Any) -> Any:
        """On one CPU without the others in between."""
        if needed.ndim != 2:
            return work(state, *given)
        return run_for(work, needed, state, *given)

    def each_sample(self) -> tuple["DenseProblem", Any]:
        """Through the drives, and through the matrices unless the samples share one."""
        if self.matrix.shape[-1] == self.drive.shape[-1]:
            return self, -1
        shared = eqx.tree_at(lambda problem: problem.matrix, self, self.matrix[..., 0])
        along: Any = jax.tree.map(lambda _: -1, shared)
        return shared, eqx.tree_at(lambda p: p.matrix, along, None)

    def find_unstable(self, y: State, asked: Array, rate: State | None = None) -> Array:
        """By the matrix."""
        if rate is None:
            _, slope = self.value_and_slope(y)
            return unstable_by_matrix(self.matrix, slope, asked)
        n = len(y)
        if n > EIGENVALUES_UP_TO:
            return super().find_unstable(y, asked, rate)
        _, slope = self.value_and_slope(y)
        identity = jnp.eye(n, dtype=y.dtype)[..., None]
        jacobian = (rate * slope)[:, None] * self.matrix + (1 - rate) * identity
        return unstable_by_matrix(jacobian, jnp.ones_like(y), asked)

    def unproven(self) -> "DenseProblem":
        """Without the proof."""
        return dataclasses.replace(self, contracts=None)

    def at_samples(self, index: Int[Array, " samples"]) -> "DenseProblem":
        """The problems of these samples, of a batch with one axis."""
        return jax.tree.map(lambda leaf: leaf if leaf.shape[-1] == 1 else leaf[..., index], self)

    def in_precision(self, dtype: Any) -> "DenseProblem":
        """A and b converted."""
        tolerance = jnp.full_like(self.layout.size(self.drive), default_tolerance(dtype))
        return in_precision(dataclasses.replace(self, tolerance=tolerance), dtype)


class Evaluations(NamedTuple):
    """Where a batch is, F and the slope there, and which samples go on, (1, batch)."""

    state: State
    velocity: State
    slope: State
    going: Bool[Array, "1 *batch"]


def _contracted(
    problem: DenseProblem, y: State, loop: Loop
) -> tuple[State, Array, State, Numbers, Numbers]:
    """Some evaluations of a map that contracts, in float32."""
    layout, contracting = problem.layout, problem.contracts
    assert contracting is not None
    near = 2 * float(jnp.finfo(y.dtype).eps) ** 0.25
    # Far from float32's rounding, in any dtype; and all samples are evaluated once, in a loop: with
    # what enters it their layout is put together once, and not for each entry of a product.
    coarse, start = in_precision((problem, y), jnp.float32)

    def advance(number: Array, at: Evaluations) -> Evaluations:
        value, slope = coarse.value_and_slope(at.state)
        velocity = value - at.state
        going = at.going & (number + 1 < MAX_EVALUATIONS) & (layout.size(velocity) > near)
        going &= contracting
        return Evaluations(jnp.where(going, value, at.state), velocity, slope, going)

    zeros = jnp.zeros_like(start)
    first = Evaluations(start, zeros, zeros, jnp.ones(contracting.shape, bool))
    last = loop.repeat(
        advance, first, lambda at: at.going, MAX_EVALUATIONS, as_one=problem.is_arithmetic
    )
    state, velocity, slope = in_precision(last[:3], y.dtype)
    # What is at rest in float32 need not be at rest.
    rounding = float(jnp.finfo(jnp.float32).eps) * problem.scale_at(state)
    size = jnp.maximum(layout.size(velocity), rounding)
    return state, slope, velocity, size, jnp.full(size.shape, jnp.inf, jnp.float32)
