"""Which equilibria the flow would leave: where J has an eigenvalue of real part above 1."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.linalg.arnoldi import rightmost
from irnn_jax.linalg.dense import columns, multiply, sweep
from irnn_jax.linalg.layout import NEURONS_FIRST, Layout
from irnn_jax.xla.chunks import run_for
from irnn_jax.xla.conditional import run_if
from irnn_jax.xla.loops import Plain
from irnn_jax.xla.tuning import BLOCKS_UP_TO, EIGENVALUES_UP_TO
from irnn_jax.xla.varying import vary, varying_axes

State = Float[Array, "*state"]
Flags = Bool[Array, "*numbers"]

# Products that are tried, and what they must leave of a vector.
POWERS, LEFT = 32, 1e-3
# What a power of a matrix shrinks or grows to, to have decided.
SMALL, LARGE = 0.5, 1e60
# An inverse that is further from one does not count.
INEXACT = 1e-2
# By so many an eigenvalue may differ from the true one.
ROUNDINGS = 64


def spectral_abscissa(jacobian: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
    """The largest real part of the eigenvalues of D A."""
    return jnp.max(jnp.linalg.eigvals(jacobian).real, axis=-1)


def unstable_by_matrix(
    matrix: Float[Array, "n n *shared"],
    slope: Float[Array, "n batch"],
    asked: Bool[Array, "1 batch"],
) -> Bool[Array, "1 batch"]:
    """Of the samples asked about, those whose J = D A has an eigenvalue of real part above 1.

    Beyond 16 neurons eigenvalues are the last resort, for what nothing cheaper has shown to be
    stable.
    """
    matrix, slope = jax.lax.stop_gradient((matrix, slope))
    left = asked & ~(_row_bound(matrix, slope) < 1)
    n = len(slope)
    if n > EIGENVALUES_UP_TO:
        return unstable_by_products(
            lambda v: slope * multiply(matrix, v), slope, left, NEURONS_FIRST
        )

    if n <= BLOCKS_UP_TO:
        return run_if(jnp.any(left), _by_squaring, left, matrix, slope)

    def by_powers(left: Flags, matrix: Array, slope: Array) -> Flags:
        matrix, slope = matrix.astype(jnp.float32), slope.astype(jnp.float32)
        return left & ~shrinks(lambda v: slope * multiply(matrix, v), slope, left, NEURONS_FIRST)

    left = run_if(jnp.any(left), by_powers, left, matrix, slope)

    def by_eigenvalues(left: Flags, matrix: Array, slope: Array) -> Flags:
        # LAPACK refuses what is not a number; that was not asked about.
        jacobian = jnp.where(left, slope, 0)[:, None] * matrix
        return left & _above_one(spectral_abscissa(jnp.moveaxis(jacobian, -1, 0))[None])

    return run_if(
        jnp.any(left),
        lambda left, *given: run_for(by_eigenvalues, left, left, *given),
        left,
        matrix,
        slope,
    )


def unstable_by_products(
    jacobian: Callable[[State], State], like: State, asked: Flags, layout: Layout
) -> Flags:
    """The same by products with J alone: an estimate, by the power method and by Arnoldi's."""
    left = asked & ~shrinks(jacobian, like, asked, layout)
    return run_if(
        jnp.any(left),
        lambda left, like: left & _above_one(rightmost(jacobian, some_vector(like), layout)),
        left,
        like,
    )


def _above_one(abscissa: Array) -> Array:
    """By more than rounding: a flow at rest where it is 1, as at a fold, is not seen to leave."""
    # NaN compares false.
    return ~(abscissa <= 1 + ROUNDINGS * float(jnp.finfo(abscissa.dtype).eps))


def shrinks(jacobian: Callable[[State], State], like: State, asked: Flags, layout: Layout) -> Flags:
    """Of the samples asked about, those in which products with J shrink a vector.

    The vector has a part in all directions. A part of more than what is left of it cannot be in
    one that grows.
    """

    def advance(number: Array, v: State) -> State:
        del number
        return jacobian(v)

    def growing(v: State) -> Flags:
        # NaN compares false, and shrinks in no direction.
        return asked & (layout.norm(v) > LEFT)

    v = some_vector(like)
    v = Plain().repeat(advance, v / layout.norm(v), growing, POWERS, 2)
    return layout.norm(v) <= LEFT


def some_vector(like: State) -> State:
    """Numbers between -1 and 1 without a pattern, the same ones each time."""
    number = 1 + jnp.arange(like.size, dtype=jnp.float32).reshape(like.shape)
    vector = jnp.sin(12.9898 * number + 78.233 * jnp.sin(number)).astype(like.dtype)
    return vary(vector, varying_axes(like))


def _row_bound(matrix: Array, slope: Array) -> Array:
    """No eigenvalue of D A has a real part above the largest sum of a row (Gershgorin)."""
    n = len(slope)
    diagonal = jnp.diagonal(matrix).T  # (n, shared)
    others = jnp.sum(jnp.abs(matrix), axis=1) - jnp.abs(diagonal)
    return jnp.max(
        slope * diagonal.reshape(n, -1) + jnp.abs(slope) * others.reshape(n, -1),
        axis=0,
        keepdims=True,
    )


def _by_squaring(left: Flags, matrix: Array, slope: Array) -> Flags:
    """Of those left, the ones of which the powers of C = J (2 I - J)^-1 grow.

    C has the eigenvalues z/(2 - z), and |z/(2 - z)| < 1 is Re z < 1. As often squared as a number
    has digits: what is then neither small nor large has an eigenvalue of one to rounding.
    """
    n = len(slope)
    identity = jnp.eye(n, dtype=slope.dtype)[..., None]
    # J/2 (I - J/2)^-1 = (I - J/2)^-1 - I
    shifted = identity - slope[:, None] * matrix / 2
    inverse = sweep(shifted).inverse
    # Without pivots: what elimination has lost the digits of is not known to be stable.
    lost = ~(_norm(columns(shifted, inverse) - identity) <= INEXACT)
    power = inverse - identity

    def scaled(power: Array, log: Array) -> tuple[Array, Array]:
        norm = _norm(power)
        return power / jnp.where(norm > 0, norm, 1), log + jnp.log(norm)

    def undecided(at: tuple[Array, Array]) -> Flags:
        # NaN compares false.
        return left & (at[1] >= math.log(SMALL)) & (at[1] <= math.log(LARGE))

    def square(number: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        del number
        power, log = scaled(columns(at[0], at[0]), 2 * at[1])
        going = undecided(at)
        return jnp.where(going, power, at[0]), jnp.where(going, log, at[1])

    digits = int(jnp.finfo(slope.dtype).nmant)
    start = scaled(power, jnp.zeros_like(left, slope.dtype))
    log = Plain().repeat(square, start, undecided, digits)[1]
    return left & (lost | ~(log <= math.log(LARGE)))


def _norm(matrix: Array) -> Array:
    return jnp.max(jnp.sum(jnp.abs(matrix), axis=1), axis=0)[None]
