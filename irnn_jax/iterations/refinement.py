"""Float64 for the price of float32: most products in single precision, the residual in double.

Iterative refinement, as for linear systems: with y near the solution of y = f(A y + b), the
residual r = f(A y + b) - y is computed in double precision and its correction,

    (I - D A) v = r,    D = f'(A y + b),

in single, as v = r + D u, u = A v. Each correction brings six digits. A GPU that is as fast in
double precision iterates in that from the start.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from irnn_jax.iterations.chord import Chord
from irnn_jax.iterations.hammerstein import Hammerstein, States, affine
from irnn_jax.iterations.stationary import iterate
from irnn_jax.xla.conditional import run_if
from irnn_jax.xla.device import checks_are_cheap
from irnn_jax.xla.loops import Plain
from irnn_jax.xla.precision import is_fast_in_double
from irnn_jax.xla.tuning import DOUBLE_UP_TO

# To be had in float32 by sums of hundreds of products, relative to the largest number.
INNER = 3e-6
CORRECTIONS = 4
# A residual that is nothing but rounding, in roundings of the state.
ROUNDINGS = 16


class Refined(NamedTuple):
    """Where a batch stands.

    Attributes:
        y: (n, batch).
        u: A y + b, (n, batch).
        residual: f(u) - y, (n, batch).
        going: which samples go on, (1, batch).
        done: which are within the tolerance, (1, batch).
        num_steps: products with A or B, (1, batch).
    """

    y: States
    u: States
    residual: States
    going: Bool[Array, "*samples"]
    done: Bool[Array, "*samples"]
    num_steps: Float[Array, "*samples"]


def iterate_refined(
    equation: Hammerstein,
    y: Float[Array, "n batch"],
    going: Bool[Array, "1 batch"],
    tolerance: float | Float[Array, "1 batch"],
    chord: Chord,
    num_samples: int | None = None,
) -> tuple[Refined, Chord]:
    """Solve y = f(A y + b) from y, for the samples that are `going`.

    In float32 that is `iterate`, whose `chord` and `num_samples` these are. Of y only the first
    digits count, in any dtype. What does not get there is not `done`, and of no use.
    """
    equation = equation.laid_out()
    y, going = equation.turned(y), equation.each(going)
    found, chord = _refine(equation, y, going, equation.each(tolerance), chord, num_samples)
    states = {name: equation.turned(getattr(found, name)) for name in ("y", "u", "residual")}
    numbers = {name: getattr(found, name).reshape(1, -1) for name in ("going", "done", "num_steps")}
    return Refined(**states, **numbers), chord


def _refine(
    equation: Hammerstein,
    y: States,
    going: Bool[Array, "_ _"],
    tolerance: Array,
    chord: Chord,
    num_samples: int | None,
) -> tuple[Refined, Chord]:
    """The same, laid out as the equation is."""
    dtype = equation.drive.dtype
    single = jnp.dtype(jnp.float32 if _single_pays(equation) else dtype)
    coarse = equation.astype(single)

    # What begins at zero has no product to wait for.
    y = y.astype(single)
    recurrent = run_if(jnp.any(y != 0), lambda _, y: coarse.times(y), jnp.zeros_like(y), y)
    size = equation.size(coarse.value(coarse.drive + recurrent))
    first = tolerance if dtype == single else INNER * size
    settled, chord = iterate(coarse, recurrent, going, first, chord, num_samples)
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
        done = settled.done & (equation.size(start.residual) <= tolerance)
        return start._replace(done=done), chord

    rounding = ROUNDINGS * float(jnp.finfo(dtype).eps) * equation.size(start.y + start.residual)

    def correct(number: Array, carry: tuple[Refined, Chord]) -> tuple[Refined, Chord]:
        del number
        at, chord = carry
        # In units of the residual, whose square may leave float32's range.
        unit = equation.size(at.residual)
        unit = jnp.where(unit > 0, unit, 1)
        rhs = (at.residual / unit).astype(single)
        slope = equation.slope_at(at.u).astype(single)
        none = jnp.zeros_like(rhs)
        tangent = affine(coarse.matrix, none, slope, rhs, in_rows=equation.in_rows)
        found, chord = iterate(tangent, none, at.going, INNER, chord, num_samples)
        step = unit * found.value.astype(dtype)
        y = jnp.where(at.going, at.y + step, at.y)
        u, residual = _evaluated(equation, y)
        # A residual r leaves an error of r/rate in y and r/rate^2 in the gradient. The correction
        # has shown what 1/rate is.
        slowness = jnp.maximum(1, equation.size(step) / unit)
        size = equation.size(residual)
        done = at.going & (size * slowness**2 <= tolerance)
        # To rounding, so that what a sample's neighbours are decides about no more than that: they
        # share its chord. A correction that falls short of its tolerance is one all the same.
        going = at.going & (size > rounding) & (size < unit / 4)
        num_steps = at.num_steps + found.num_steps + at.going.astype(dtype)
        return Refined(y, u, residual, going, at.done | done, num_steps), chord

    return Plain().repeat(correct, (start, chord), lambda carry: carry[0].going, CORRECTIONS)


def _single_pays(equation: Hammerstein) -> bool:
    """Whether products in single precision are worth the corrections, each of them two checks."""
    if checks_are_cheap():
        return True
    multiplications = equation.num_neurons**2 * equation.num_samples
    return multiplications > DOUBLE_UP_TO and not is_fast_in_double()


def _evaluated(equation: Hammerstein, y: States) -> tuple[States, States]:
    """A y + b and the residual f(A y + b) - y."""
    u = equation.times(y) + equation.drive
    return u, equation.value(u) - y
