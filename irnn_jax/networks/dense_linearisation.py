"""J = D A of a network at one state of each sample, and solves with I - J; samples lie last.

Solved directly up to some neurons, with one step of iterative refinement, which squares the
relative error that a factorisation without pivots leaves; and what that leaves too large is solved
by LAPACK, which pivots. Wide systems are iterated, with products that all samples share: an
equilibrium that an iteration reaches has an adjoint that an iteration reaches, since their rates
are the same. A sample for which it does not end, with Anderson acceleration either, is solved
directly, one after the other, which takes the memory of one.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.iterations.acceleration import Acceleration
from irnn_jax.iterations.chord import Chord, unknown_chord
from irnn_jax.iterations.hammerstein import Hammerstein, affine, chunk_width
from irnn_jax.iterations.refinement import iterate_refined
from irnn_jax.linalg.dense import factorize, lapack, multiply, product
from irnn_jax.linalg.layout import NEURONS_FIRST, Layout
from irnn_jax.linearisation import Linearisation, State
from irnn_jax.networks.dense import feedforward_mask
from irnn_jax.xla.batch_last import batch_last
from irnn_jax.xla.chunks import map_chunks_where_it_pays
from irnn_jax.xla.conditional import run_if
from irnn_jax.xla.loops import Plain
from irnn_jax.xla.one_function import as_one_function
from irnn_jax.xla.tuning import BLOCKS_UP_TO, DIRECT_UP_TO


class DenseLinearisation(Linearisation):
    """J = D A; `sizes` are the layers', from input to output."""

    matrix: Float[Array, "n n *shared"]
    slope: State
    sizes: tuple[int, ...] = eqx.field(static=True)
    layout: ClassVar[Layout] = NEURONS_FIRST

    @property
    def depth(self) -> int:
        """The number of layers."""
        return len(self.sizes)

    def product(self, transposed: bool) -> Callable[[State], State]:
        """D A v, or A^T D w."""
        if transposed:
            return lambda w: multiply(jnp.swapaxes(self.matrix, 0, 1), self.slope * w)
        return lambda v: self.slope * multiply(self.matrix, v)

    def feedforward_pullback(self, w: State) -> State:
        """The blocks of A that lead from a layer to a later one."""
        mask = feedforward_mask(self.sizes)
        mask = mask.reshape(*mask.shape, *(1,) * (self.matrix.ndim - 2))
        feedforward = jnp.where(mask, self.matrix, 0)
        return multiply(jnp.swapaxes(feedforward, 0, 1), self.slope * w)

    def solve(self, rhs: State, transposed: bool) -> State:
        """With few neurons directly; else by iteration, in chunks that stay in the cache."""
        solve = functools.partial(_solve, transposed)
        return batch_last(solve, (2, 1, 1))(self.matrix, self.slope, rhs)


def _solve(transposed: bool, matrix: Array, slope: Array, rhs: Array) -> Array:
    n, count = rhs.shape
    if n <= BLOCKS_UP_TO:

        def direct(_: Array, *given: Array) -> Array:
            matrix, slope, rhs = given
            return _direct(transposed, matrix, slope, rhs)

        # In a loop: with what enters it the samples' layout is put together once, and not for each
        # entry that an elimination takes from it.
        @as_one_function
        def solved(*given: Array) -> Array:
            return run_if(jnp.any(given[2] != 0), direct, jnp.zeros_like(given[2]), *given)

        return _checked(transposed, solved(matrix, slope, rhs), matrix, slope, rhs)

    def chunk(chord: Chord, part: Any, seen: Array) -> tuple[Chord, Array]:
        del seen
        matrix, slope, rhs = part
        return _iterate(transposed, matrix, slope, rhs, chord, count)

    batch, width = (matrix, slope, rhs), chunk_width(matrix)
    return map_chunks_where_it_pays(chunk, unknown_chord(n), batch, count=count, width=width)[1]


def _direct(transposed: bool, matrix: Array, slope: Array, rhs: Array) -> Array:
    """By a factorisation for each sample, and one step of refinement."""
    factors = factorize(_identity_minus_jacobian(matrix, slope))
    if transposed:
        w = factors.solve_transposed(rhs)
        again = _times(jnp.swapaxes(matrix, 0, 1), slope * w)
        return w + factors.solve_transposed(rhs - w + again)
    v = factors.solve(rhs)
    return v + factors.solve(rhs - v + slope * _times(matrix, v))


def _checked(transposed: bool, found: Array, matrix: Array, slope: Array, rhs: Array) -> Array:
    """Where an elimination without pivots met a small one, again by LAPACK."""
    linear = DenseLinearisation(matrix=matrix, slope=slope, sizes=(len(rhs),))
    missed = NEURONS_FIRST.size(rhs - found + linear.product(transposed)(found))
    enough = float(jnp.finfo(rhs.dtype).eps) ** 0.75 * NEURONS_FIRST.size(rhs)
    # NaN compares false: a pivot may have been zero.
    bad = ~(missed <= enough)

    def again(found: Array, bad: Array, matrix: Array, slope: Array, rhs: Array) -> Array:
        slope, rhs = jnp.where(bad, slope, 0), jnp.where(bad, rhs, 0)
        factors = lapack(_identity_minus_jacobian(matrix, slope))
        solved = factors.solve_transposed(rhs) if transposed else factors.solve(rhs)
        return jnp.where(bad, solved, found)

    return run_if(jnp.any(bad), again, found, bad, matrix, slope, rhs)


def _equation(transposed: bool, matrix: Array, slope: Array, rhs: Array) -> Hammerstein:
    """The system as u = b + A f(u): w = u with u = g + A^T D u, or v = r + D u with u = A v."""
    if transposed:
        return affine(matrix, rhs, slope, jnp.zeros_like(rhs), transposed=True)
    return affine(matrix, jnp.zeros_like(rhs), slope, rhs)


def _iterate(
    transposed: bool, matrix: Array, slope: Array, rhs: Array, chord: Chord, num_samples: int
) -> tuple[Chord, Array]:
    """By iteration, and where it is slow, directly.

    Where factors of all samples would take too much memory, what does not settle is accelerated
    first.
    """
    accuracy = float(jnp.finfo(rhs.dtype).eps) ** 0.75
    # In units of its largest number: squares of small ones leave float32's range.
    size = NEURONS_FIRST.size(rhs)
    unit = jnp.where(size > 0, size, 1)
    rhs = rhs / unit
    equation = _equation(transposed, matrix, slope, rhs)
    found, chord = iterate_refined(
        equation, jnp.zeros_like(rhs), size != 0, accuracy, chord, num_samples
    )
    solved = found.u if transposed else found.y
    state, done = jnp.where(found.done, solved, rhs), found.done | (size == 0)
    if len(rhs) <= DIRECT_UP_TO:

        def factorised(state: Array, slope: Array) -> Array:
            # Each sample has a matrix here in any case.
            direct = functools.partial(_direct, transposed)
            joined = batch_last(direct, (2, 1, 1), up_to=DIRECT_UP_TO)
            return jnp.where(done, state, joined(matrix, slope, rhs))

        state = run_if(jnp.any(~done), factorised, state, slope)
        return chord, unit * _checked(transposed, state, matrix, slope, rhs)

    product = DenseLinearisation(matrix=matrix, slope=slope, sizes=()).product(transposed)

    def accelerate(state: Array) -> Array:
        def rest(w: Array) -> Array:
            return jnp.where(done, w, rhs + product(w))

        found = Acceleration(max_steps=200)(rest, state, lambda w: accuracy, NEURONS_FIRST, Plain())
        # NaN compares false: of what is not a number there is no solution to look for.
        left = NEURONS_FIRST.size(found.velocity) > accuracy
        return _one_by_one(transposed, matrix, slope, rhs, found.state, left[0])

    return chord, unit * run_if(jnp.any(~done), accelerate, state)


def _one_by_one(
    transposed: bool, matrix: Array, slope: Array, rhs: Array, state: Array, left: Array
) -> Array:
    """The state, solved directly for the samples that are `left`."""

    def sample(index: Array, of: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(of, index % of.shape[-1], 1, axis=-1)

    def one(number: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        del number
        state, left = carry
        index = jnp.argmax(left)
        solved = _direct(transposed, *(sample(index, of) for of in (matrix, slope, rhs)))
        solved = jnp.where(left[index], solved, sample(index, state))
        state = jax.lax.dynamic_update_slice_in_dim(state, solved, index, axis=-1)
        return state, left.at[index].set(False)

    return Plain().repeat(one, (state, left), lambda carry: carry[1], left.size)[0]


def _times(matrix: Array, vector: Array) -> Array:
    """A product that is not computed again for each entry of what follows."""
    return product(matrix, vector) if len(vector) <= BLOCKS_UP_TO else multiply(matrix, vector)


def _identity_minus_jacobian(matrix: Array, slope: Array) -> Array:
    n = slope.shape[0]
    identity = jnp.eye(n, dtype=slope.dtype).reshape(n, n, *(1,) * (slope.ndim - 1))
    return identity - slope[:, None] * matrix
