"""Float64 for the price of float32: most products in single precision, the residual in double.

Iterative refinement, as for linear systems: with y near the solution of y = f(A y + b), the
residual r = f(A y + b) - y is computed in double precision and its correction,

    (I - D A) v = r,    D = f'(A y + b),

in single, as v = r + D u, u = A v. Each correction brings six digits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.max_norm import max_norm
from irnn_jax.solvers.settle import (
    Chord,
    Equation,
    States,
    affine,
    settle,
    unknown_chord,
)

# To be had in float32 by sums of hundreds of products, relative to the largest number.
INNER = 3e-6
CORRECTIONS = 4


class Refined(NamedTuple):
    """Where a batch stands.

    Attributes:
        y: (n, batch).
        u: A y + b, (n, batch).
        residual: f(u) - y, (n, batch).
        going: which samples go on, (batch).
        done: which are within the tolerance, (batch).
        num_steps: products with A or B, (batch).
    """

    y: States
    u: States
    residual: States
    going: Bool[Array, " batch"]
    done: Bool[Array, " batch"]
    num_steps: Float[Array, " batch"]


def settle_refined(
    equation: Equation,
    u: States,
    going: Bool[Array, " batch"],
    tolerance: float | Float[Array, " batch"],
    chord: Chord,
    num_samples: int | None = None,
) -> tuple[Refined, Chord]:
    """Solve y = f(A y + b) from u near A y + b, for the samples that are `going`.

    In float32 that is `settle`, whose `chord` and `num_samples` these are. Of u only the first
    digits count, in any dtype. What does not get there is not `done`, and of no use.
    """
    dtype, single = equation.drive.dtype, jnp.float32
    coarse = equation.astype(single)
    u = u.astype(single)
    first = tolerance if dtype == single else INNER * jnp.maximum(1, max_norm(coarse.value(u)))
    settled, chord = settle(coarse, u, going, first, chord, num_samples)
    y = settled.value.astype(dtype)
    after, residual = _evaluated(equation, y)
    start = Refined(
        y=y,
        u=after,
        residual=residual,
        going=going & jnp.isfinite(settled.change),
        done=jnp.zeros_like(going),
        num_steps=settled.num_steps.astype(dtype),
    )
    if dtype == single:
        done = settled.done & (max_norm(start.residual) <= tolerance)
        return start._replace(done=done), chord

    def correct(carry: tuple[Array, Refined, Chord]) -> tuple[Array, Refined, Chord]:
        number, at, chord = carry
        # In units of the residual, whose square may leave float32's range.
        unit = max_norm(at.residual)
        unit = jnp.where(unit > 0, unit, 1)
        rhs = (at.residual / unit).astype(single)
        slope = equation.slope_at(at.u).astype(single)
        none = jnp.zeros_like(rhs)
        tangent = affine(coarse.matrix, none, slope, rhs)
        found, chord = settle(tangent, none, at.going, INNER, chord, num_samples)
        step = unit * found.value.astype(dtype)
        y = jnp.where(at.going, at.y + step, at.y)
        u, residual = _evaluated(equation, y)
        # A residual r leaves an error of r/rate in y and r/rate^2 in the gradient. The correction
        # has shown what 1/rate is.
        slowness = jnp.maximum(1, max_norm(step) / unit)
        size = max_norm(residual)
        done = at.going & (size * slowness**2 <= tolerance)
        # A correction that falls short of its tolerance is one all the same.
        going = at.going & ~done & (size < unit / 4)
        num_steps = at.num_steps + found.num_steps + at.going.astype(dtype)
        return number + 1, Refined(y, u, residual, going, at.done | done, num_steps), chord

    def unfinished(carry: tuple[Array, Refined, Chord]) -> Bool[Array, ""]:
        return (carry[0] < CORRECTIONS) & jnp.any(carry[1].going)

    carry = (jnp.zeros((), jnp.int32), start, chord)
    _, refined, chord = jax.lax.while_loop(unfinished, correct, carry)
    return refined, chord


def first_chord(matrix: Float[Array, "n n shared"]) -> Chord:
    """The `chord` of a batch of which nothing is known yet."""
    return unknown_chord(matrix.astype(jnp.float32))


def in_single_precision(equation: Equation, y: States) -> States:
    """A y + b."""
    equation = equation.astype(jnp.float32)
    return equation.times(y.astype(jnp.float32)) + equation.drive


def _evaluated(equation: Equation, y: States) -> tuple[States, States]:
    """A y + b and the residual f(A y + b) - y."""
    u = equation.times(y) + equation.drive
    return u, equation.value(u) - y
