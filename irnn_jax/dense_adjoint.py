"""The adjoint's linear systems (I - A^T D) w = g of a network, for a batch that lies last.

Solved directly up to `DIRECT_UP_TO` neurons, with one step of iterative refinement, which squares
the relative error that a factorisation without pivots leaves. Wide systems are iterated, with
products that all samples share: an equilibrium that an iteration reaches has an adjoint that an
iteration reaches, since their rates are the same. A sample for which it does not end, with Anderson
acceleration either, is solved directly, one after the other, which takes the memory of one.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from irnn_jax.gradients import AdjointSystem
from irnn_jax.lazily import at_most_once, at_most_once_or_unasked
from irnn_jax.linear import BLOCKS_UP_TO, factorize, multiply, multiply_transposed, product
from irnn_jax.max_norm import max_norm
from irnn_jax.network import feedforward_mask
from irnn_jax.problem import DIRECT_UP_TO, State
from irnn_jax.side_by_side import side_by_side
from irnn_jax.solvers import Anderson
from irnn_jax.solvers.chord import Chord, unknown_chord
from irnn_jax.solvers.equation import Equation, affine, piece_width
from irnn_jax.solvers.in_pieces import where_it_pays
from irnn_jax.solvers.refine import Refined, settle_refined
from irnn_jax.solvers.settle import FACTORISE_UP_TO


def dense_adjoint_system(
    matrix: Float[Array, "n n"],
    slope: Float[Array, "n batch"],
    sizes: tuple[int, ...],
    chord: Chord | None = None,
) -> AdjointSystem:
    """The systems of all samples; `sizes` are the layers', from input to output.

    `chord` is the linearisation that the equilibrium was found with, if it was with one: like the
    matrices here, with an axis for the samples behind, of length one.
    """
    shared = matrix[:, :, None]
    feedforward = jnp.where(feedforward_mask(sizes)[:, :, None], shared, 0)

    return AdjointSystem(
        pullback=lambda w: multiply_transposed(shared, slope * w),
        feedforward_pullback=lambda w: multiply_transposed(feedforward, slope * w),
        depth=len(sizes),
        solve=lambda g, _: _state(_adjoint, shared, slope, g, chord),
    )


class Kind(NamedTuple):
    """What is known of w - K w = g for a batch.

    Attributes:
        operator: K w.
        direct: g, slope -> w, by a factorisation for each sample.
        equation: g -> the same as an equation u = b + A f(u).
        solution: what was found of the equation -> w.
    """

    operator: Callable[[Array], Array]
    direct: Callable[[Array, Array], Array]
    equation: Callable[[Array], Equation]
    solution: Callable[[Refined], Array]


def _adjoint(matrix: Array, slope: Array) -> Kind:
    """(I - A^T D) w = g, of A."""

    def direct(rhs: Array, slope: Array) -> Array:
        factors = factorize(_identity_minus_jacobian(matrix, slope))
        w = factors.solve_transposed(rhs)
        again = _times(jnp.swapaxes(matrix, 0, 1), slope * w)
        return w + factors.solve_transposed(rhs - w + again)

    # w = g + A^T v with v = D w.
    return Kind(
        operator=lambda w: multiply_transposed(matrix, slope * w),
        direct=direct,
        equation=lambda g: affine(matrix, g, slope, jnp.zeros_like(g), transposed=True),
        solution=lambda found: found.u,
    )


def _tangent(matrix: Array, slope: Array) -> Kind:
    """(I - D A) v = r, of A."""

    def direct(rhs: Array, slope: Array) -> Array:
        factors = factorize(_identity_minus_jacobian(matrix, slope))
        v = factors.solve(rhs)
        return v + factors.solve(rhs - v + slope * _times(matrix, v))

    # v = r + D u with u = A v.
    return Kind(
        operator=lambda v: slope * multiply(matrix, v),
        direct=direct,
        equation=lambda rhs: affine(matrix, jnp.zeros_like(rhs), slope, rhs),
        solution=lambda found: found.y,
    )


def _solve(
    kind: Callable[[Array, Array], Kind], matrix: Array, slope: Array, rhs: Array, *chord: Array
) -> Array:
    """Directly with few neurons; else by iteration, in pieces that stay in the cache."""
    n, count = rhs.shape
    # With an axis for samples, of length one: as `side_by_side` has it.
    first = Chord(*(leaf[..., 0] for leaf in chord)) if chord else unknown_chord(n)
    if n <= FACTORISE_UP_TO:

        def direct(_: Array, *given: Array) -> Array:
            matrix, slope, rhs = given
            return kind(matrix, slope).direct(rhs, slope)

        # In a loop: with what enters it the samples' layout is put together once, and not for each
        # entry that an elimination takes from it.
        given, zeros = (matrix, slope, rhs), jnp.zeros_like(rhs)
        return at_most_once_or_unasked(jnp.any(rhs != 0), direct, zeros, *given)

    def piece(chord: Chord, part: Any, seen: Array) -> tuple[Chord, Array]:
        del seen
        matrix, slope, rhs = part
        return _iterate(kind, matrix, slope, rhs, chord, count)

    batch, width = (matrix, slope, rhs), piece_width(matrix)
    return where_it_pays(piece, first, batch, count=count, width=width)[1]


solve_adjoint = side_by_side(functools.partial(_solve, _adjoint), (2, 1, 1))
solve_adjoint_by_chord = side_by_side(functools.partial(_solve, _adjoint), (2, 1, 1, 1, 2, 0))
solve_tangent = side_by_side(functools.partial(_solve, _tangent), (2, 1, 1))


# A solution has the derivatives of its system, and none of how it was solved. Each kind is the
# other's transpose, and `jax.lax.custom_linear_solve` would trace both where one is needed.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _state(
    kind: Callable[[Array, Array], Kind],
    matrix: Array,
    slope: Array,
    rhs: State,
    chord: Chord | None,
) -> State:
    if chord is not None:
        return solve_adjoint_by_chord(matrix, slope, rhs, *chord.transposed())
    return (solve_adjoint if kind is _adjoint else solve_tangent)(matrix, slope, rhs)


def _state_forward(kind, matrix, slope, rhs, chord):
    state = _state(kind, matrix, slope, rhs, chord)
    return state, (matrix, slope, state)


def _state_backward(kind, saved, cotangent: State):
    matrix, slope, state = saved
    transpose = _tangent if kind is _adjoint else _adjoint
    adjoint = _state(transpose, matrix, slope, cotangent, None)
    _, pullback = jax.vjp(lambda a, d: kind(a, d).operator(state), matrix, slope)
    return *pullback(adjoint), adjoint, None


_state.defvjp(_state_forward, _state_backward)


def _times(matrix: Array, vector: Array) -> Array:
    """A product that is not computed again for each entry of what follows."""
    return product(matrix, vector) if len(vector) <= BLOCKS_UP_TO else multiply(matrix, vector)


def _iterate(
    kind: Callable[[Array, Array], Kind],
    matrix: Array,
    slope: Array,
    rhs: Array,
    chord: Chord,
    num_samples: int,
) -> tuple[Chord, Array]:
    """By iteration, and where it is slow, directly.

    Where factors of all samples would take too much memory, what does not settle is accelerated
    first.
    """
    system = kind(matrix, slope)
    accuracy = float(jnp.finfo(rhs.dtype).eps) ** 0.75
    # In units of its largest number: squares of small ones leave float32's range.
    size = max_norm(rhs)
    unit = jnp.where(size > 0, size, 1)
    rhs = rhs / unit
    found, chord = settle_refined(
        system.equation(rhs), jnp.zeros_like(rhs), size != 0, accuracy, chord, num_samples
    )
    state, done = jnp.where(found.done, system.solution(found), rhs), found.done | (size == 0)
    if len(rhs) <= DIRECT_UP_TO:

        def direct(matrix: Array, slope: Array, rhs: Array) -> Array:
            return kind(matrix, slope).direct(rhs, slope)

        def factorised(state: Array, slope: Array) -> Array:
            # Each sample has a matrix here in any case.
            joined = side_by_side(direct, (2, 1, 1), up_to=DIRECT_UP_TO)
            return jnp.where(done, state, joined(matrix, slope, rhs))

        return chord, unit * at_most_once(jnp.any(~done), factorised, state, slope)

    def accelerate(state: Array) -> Array:
        def rest(w: Array) -> Array:
            return jnp.where(done, w, rhs + system.operator(w))

        anderson, forward = Anderson(max_steps=200), diffrax.ForwardMode()
        found = anderson.accelerate(rest, state, accuracy, forward)
        # NaN compares false: of what is not a number there is no solution to look for.
        left = max_norm(found.velocity) > accuracy
        return _one_by_one(kind, matrix, slope, rhs, found.state, left)

    return chord, unit * at_most_once(jnp.any(~done), accelerate, state)


def _one_by_one(
    kind: Callable[[Array, Array], Kind],
    matrix: Array,
    slope: Array,
    rhs: Array,
    state: Array,
    left: Array,
) -> Array:
    """The state, solved directly for the samples that are `left`."""

    def sample(index: Array, of: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(of, index % of.shape[-1], 1, axis=-1)

    def one(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        state, left = carry
        index = jnp.argmax(left)
        alone = sample(index, slope)
        solved = kind(sample(index, matrix), alone).direct(sample(index, rhs), alone)
        solved = jnp.where(left[index], solved, sample(index, state))
        state = jax.lax.dynamic_update_slice_in_dim(state, solved, index, axis=-1)
        return state, left.at[index].set(False)

    return jax.lax.while_loop(lambda carry: jnp.any(carry[1]), one, (state, left))[0]


def _identity_minus_jacobian(matrix: Array, slope: Array) -> Array:
    n = slope.shape[0]
    identity = jnp.eye(n, dtype=slope.dtype).reshape(n, n, *(1,) * (slope.ndim - 1))
    return identity - slope[:, None] * matrix
