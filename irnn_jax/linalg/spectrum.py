"""Which equilibria the flow would leave: where J has an eigenvalue of real part above 1."""

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
# Squarings of a matrix: to a power of 1024, where a decay of a hundredth is left of nothing.
SQUARINGS, SMALL = 10, 0.5
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

    Eigenvalues are the last resort, for those that nothing cheaper has shown to be stable.
    """
    matrix, slope = jax.lax.stop_gradient((matrix, slope))
    left = asked & ~(_row_bound(matrix, slope) < 1)
    n = len(slope)
    if n > EIGENVALUES_UP_TO:
        return unstable_by_products(
            lambda v: slope * multiply(matrix, v), slope, left, NEURONS_FIRST
        )

    def by_powers(left: Flags, matrix: Array, slope: Array) -> Flags:
        matrix, slope = matrix.astype(jnp.float32), slope.astype(jnp.float32)
        return left & ~shrinks(lambda v: slope * multiply(matrix, v), slope, left, NEURONS_FIRST)

    cheaper = _not_by_squaring if n <= BLOCKS_UP_TO else by_powers
    left = run_if(jnp.any(left), cheaper, left, matrix, slope)

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


def _not_by_squaring(left: Flags, matrix: Array, slope: Array) -> Flags:
    """Without those of which a power of C = J (2 I - J)^-1 is small.

    C has the eigenvalues z/(2 - z), and |z/(2 - z)| < 1 is Re z < 1.
    """
    n = len(slope)
    matrix, slope = matrix.astype(jnp.float32), slope.astype(jnp.float32)
    jacobian = slope[:, None] * matrix
    identity = jnp.eye(n, dtype=jnp.float32)[..., None]
    # J/2 (I - J/2)^-1 = (I - J/2)^-1 - I
    power = sweep(identity - jacobian / 2).inverse - identity

    def square(number: Array, at: tuple[Array, Flags]) -> tuple[Array, Flags]:
        del number
        power, left = at
        power = columns(power, power)
        return power, left & ~(_norm(power) < SMALL)

    start = power, left & ~(_norm(power) < SMALL)
    return Plain().repeat(square, start, lambda at: at[1], SQUARINGS)[1]


def _norm(matrix: Array) -> Array:
    return jnp.max(jnp.sum(jnp.abs(matrix), axis=1), axis=0)[None]
