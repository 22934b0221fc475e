"""u = b + A f(u) for a batch: by itself, or with one linearisation for all samples that share A.

With d the mean slope of f over the batch, and D' = diag(d),

    u = b + B (f(u) - D' (u - b)),    B = (I - A D')^-1 A,

is the same equation, and to iterate it costs one product a step, as before. But a step is one of
Newton's method with D' in place of a sample's own D (a chord), and of the error there is left

    (I - A D')^-1 A (D - D')   in place of   A D.

For fresh weights that is 0.04 in place of 0.23 (spectral radii: `python -m benchmarks.chord`). The
price is one factorisation a batch.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool

from irnn_jax import linear
from irnn_jax.lazily import at_most_once
from irnn_jax.looks import PRODUCTS_A_LOOK, looks_are_cheap
from irnn_jax.solvers.base import repeat
from irnn_jax.solvers.chord import Chord, chord_of, chord_pays
from irnn_jax.solvers.equation import Equation, Samples, States

# On a CPU a factorisation with its n solves takes as long as n/N times so many products with N
# samples.
FACTORISATION = 3.0
# What a chord usually takes.
CHORD_EXPECTED = 5
PLAIN_STEPS = 30
# The ratio of successive changes from which on the chord is faster.
PLAIN_UP_TO = 0.5
# An error e leaves a residual of up to |I - D A| e.
MARGIN = 0.25
# Steps between two looks at samples in rows, which then cost as much as a product.
ROWS_A_LOOK = 3
# Of so few neurons a factorisation for every sample costs less than all this.
FACTORISE_UP_TO = linear.BLOCKS_UP_TO


class Settled(NamedTuple):
    """Where a batch stands, laid out as its equation is.

    Attributes:
        recurrent: v = u - b of all samples, what the others contribute.
        value: f(u).
        change: max|change| of the value in the last step, of each sample.
        going: which samples go on.
        done: which are within the tolerance, by the rate at which they got there.
        num_steps: of each sample.
    """

    recurrent: States
    value: States
    change: Samples
    going: Bool[Array, "_ _"]
    done: Bool[Array, "_ _"]
    num_steps: Samples


class Limits(NamedTuple):
    """When something else is faster.

    Attributes:
        ratio: of successive changes.
        patience: steps before what is left is looked at.
        remaining: steps that may be left.
        expected: steps in all, those that are left included.
        steps: in all.
    """

    ratio: float
    patience: float
    remaining: float
    expected: float
    steps: int


# Without a chord: about what a factorisation for every sample costs, with some hundred neurons.
ALONE_LIMITS = Limits(ratio=0.9, patience=2, remaining=math.inf, expected=60, steps=60)
# On a GPU a product takes 14 µs, its sixth of a look included, and a step of Anderson acceleration
# with a look four times as long.
LIMITS_ON_A_GPU = Limits(ratio=0.96, patience=2, remaining=math.inf, expected=360, steps=360)
CHORD_LIMITS = Limits(ratio=0.9, patience=0, remaining=math.inf, expected=math.inf, steps=40)


def settle(
    equation: Equation,
    recurrent: States,
    going: Bool[Array, "*samples"],
    tolerance: ArrayLike,
    chord: Chord,
    num_samples: int | None = None,
) -> tuple[Settled, Chord]:
    """Iterate from u = b + v until f(u) is within the tolerance, for the samples that are `going`.

    v, `recurrent`, is laid out as the equation is. `num_samples` share the chord, those of v unless
    it is a piece of them.

    Plain steps first, while each halves the change, and on a CPU while what they are expected to
    take costs less than a factorisation, if there is none yet: then the chord, for those that are
    left, whose mean slope it takes. What neither brings to its end is not `done`, and of no use.
    """
    n, here = equation.num_neurons, equation.num_samples
    going, tolerance = equation.each(going), equation.each(tolerance)
    with_chord = chord_pays(n, is_shared=equation.is_shared)
    if with_chord:
        price = FACTORISATION * n / max(num_samples or here, 1)
        limits = Limits(PLAIN_UP_TO, price, price + CHORD_EXPECTED, math.inf, PLAIN_STEPS)
    else:
        limits = ALONE_LIMITS if looks_are_cheap() else LIMITS_ON_A_GPU

    def plain(recurrent: States, value: States) -> States:
        del recurrent
        return equation.times(value)

    start = Settled(
        recurrent=recurrent,
        value=equation.value(equation.drive + recurrent),
        change=jnp.full(going.shape, jnp.inf, recurrent.dtype),
        going=going & ~chord.known,
        done=jnp.zeros(going.shape, bool),
        num_steps=jnp.zeros(going.shape, recurrent.dtype),
    )
    every = ROWS_A_LOOK if equation.in_rows else 1
    every = every if looks_are_cheap() else PRODUCTS_A_LOOK
    first = _iterate(equation, plain, start, tolerance, limits, every)
    if not with_chord:
        return first, chord

    by_chord = functools.partial(_by_chord, equation, going, tolerance)
    return at_most_once(jnp.any(going & ~first.done), by_chord, (first, chord))


def _by_chord(
    equation: Equation,
    going: Bool[Array, "_ _"],
    tolerance: Array,
    carry: tuple[Settled, Chord],
) -> tuple[Settled, Chord]:
    """The rest of the way by the chord, which is computed if there is none yet."""
    at, chord = carry
    left = going & ~at.done

    def linearise(_: Chord, matrix: Array, recurrent: States, left: Bool[Array, "_ _"]) -> Chord:
        here = equation._replace(matrix=matrix)
        return _linearise(here, here.slope_at(here.drive + recurrent), left)

    numbers = left & ~jnp.isnan(at.change)
    # The matrix is given, since it is copied for LAPACK.
    chord = at_most_once(~chord.known, linearise, chord, equation.matrix, at.recurrent, numbers)
    mean = equation.turned(chord.mean[:, None])

    def step(recurrent: States, value: States) -> States:
        inner = equation.turned(value - mean * recurrent)
        return equation.turned(linear.matmul(chord.response, inner))

    return _iterate(equation, step, at._replace(going=left), tolerance, CHORD_LIMITS), chord


def _linearise(equation: Equation, slope: States, counted: Bool[Array, "_ _"]) -> Chord:
    """By the mean slope of the samples that are counted."""
    matrix = equation.matrix.T if equation.in_rows else equation.matrix
    total = jnp.sum(jnp.where(counted, slope, 0), axis=0 if equation.in_rows else 1)
    mean = total / jnp.maximum(jnp.sum(counted), 1)
    return chord_of(matrix, mean)


def _iterate(
    equation: Equation,
    step: Callable[[States, States], States],
    start: Settled,
    tolerance: Array,
    limits: Limits,
    every: int = 1,
) -> Settled:
    """Repeat v <- step(v, f(b + v)) until each sample is done, or slow; a look every few steps.

    Samples that have ended take the steps of the others too: to keep them would cost as much as
    the rest of the arithmetic on them.
    """

    def advance(look: Array, at: Settled) -> Settled:
        recurrent, value, before = at.recurrent, at.value, at.value
        for _ in range(every):
            recurrent, before = step(recurrent, value), value
            value = equation.value(equation.drive + recurrent)
        change = equation.size(value - before)
        number = every * look
        # Of the first step nobody knows how much is left after it.
        ratio = (change / at.change) ** (1 / every)
        ratio = jnp.where(look == 0, limits.ratio, ratio)
        # What is left by a geometric series; and next to a fold, where it is slow, the gradient's
        # error is larger than the state's by as much again.
        left = change * ratio / (1 - jnp.minimum(ratio, limits.ratio)) ** 2
        done = at.going & (left <= MARGIN * tolerance)
        remaining = jnp.log(MARGIN * tolerance / left) / jnp.log(ratio)
        # One that needs something else is enough, which then serves all.
        within = jnp.minimum(limits.remaining, limits.expected - number)
        soon = (number < jnp.maximum(limits.patience, 1)) | (remaining <= within)
        soon = soon | ~at.going
        return Settled(
            recurrent=recurrent,
            value=value,
            change=change,
            # NaN compares false, and ends the sample.
            going=at.going & ~done & (ratio <= limits.ratio) & jnp.all(soon),
            done=at.done | done,
            num_steps=at.num_steps + every * at.going.astype(change.dtype),
        )

    looks = -(-limits.steps // every)
    last = repeat(advance, start, lambda at: at.going, looks, diffrax.ForwardMode())
    return last._replace(
        recurrent=jnp.where(start.going, last.recurrent, start.recurrent),
        value=jnp.where(start.going, last.value, start.value),
    )
