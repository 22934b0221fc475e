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

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool

from irnn_jax.iterations.chord import Chord, chord_of, chord_pays
from irnn_jax.iterations.hammerstein import Hammerstein, Samples, States
from irnn_jax.linalg.dense import matmul
from irnn_jax.xla.conditional import run_if
from irnn_jax.xla.device import checks_are_cheap
from irnn_jax.xla.loops import Plain
from irnn_jax.xla.tuning import (
    CHORD_EXPECTED,
    FACTORISATION,
    PLAIN_STEPS,
    PLAIN_UP_TO,
    PRODUCTS_BETWEEN_CHECKS_ON_A_GPU,
    ROWS_BETWEEN_CHECKS,
)

# An error e leaves a residual of up to |I - D A| e.
RESIDUAL_SHARE = 0.25


class Iterated(NamedTuple):
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
        patience: steps before what is left is judged.
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
# On a GPU a product takes 14 µs, its sixth of a check included, and a step of Anderson acceleration
# with a check four times as long.
LIMITS_ON_A_GPU = Limits(ratio=0.96, patience=2, remaining=math.inf, expected=360, steps=360)
CHORD_LIMITS = Limits(ratio=0.9, patience=0, remaining=math.inf, expected=math.inf, steps=40)


def iterate(
    equation: Hammerstein,
    recurrent: States,
    going: Bool[Array, "*samples"],
    tolerance: ArrayLike,
    chord: Chord,
    num_samples: int | None = None,
) -> tuple[Iterated, Chord]:
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
        count = num_samples or here
        # A size that an exported program leaves open is not a number yet.
        price = FACTORISATION * n / max(count, 1) if isinstance(count, int) else PLAIN_STEPS
        limits = Limits(PLAIN_UP_TO, price, price + CHORD_EXPECTED, math.inf, PLAIN_STEPS)
    else:
        limits = ALONE_LIMITS if checks_are_cheap() else LIMITS_ON_A_GPU

    def plain(recurrent: States, value: States) -> States:
        del recurrent
        return equation.times(value)

    start = Iterated(
        recurrent=recurrent,
        value=equation.value(equation.drive + recurrent),
        change=jnp.full(going.shape, jnp.inf, recurrent.dtype),
        going=going & ~chord.known,
        done=jnp.zeros(going.shape, bool),
        num_steps=jnp.zeros(going.shape, recurrent.dtype),
    )
    every = ROWS_BETWEEN_CHECKS if equation.in_rows else 1
    every = every if checks_are_cheap() else PRODUCTS_BETWEEN_CHECKS_ON_A_GPU
    first = _repeat(equation, plain, start, tolerance, limits, every)
    if not with_chord:
        return first, chord

    by_chord = functools.partial(_by_chord, equation, going, tolerance)
    return run_if(jnp.any(going & ~first.done), by_chord, (first, chord))


def _by_chord(
    equation: Hammerstein,
    going: Bool[Array, "_ _"],
    tolerance: Array,
    carry: tuple[Iterated, Chord],
) -> tuple[Iterated, Chord]:
    """The rest of the way by the chord, which is computed if there is none yet."""
    at, chord = carry
    left = going & ~at.done

    def linearise(_: Chord, matrix: Array, recurrent: States, left: Bool[Array, "_ _"]) -> Chord:
        here = equation._replace(matrix=matrix)
        return _linearise(here, here.slope_at(here.drive + recurrent), left)

    numbers = left & ~jnp.isnan(at.change)
    # The matrix is given, since it is copied for LAPACK.
    chord = run_if(~chord.known, linearise, chord, equation.matrix, at.recurrent, numbers)
    mean = equation.turned(chord.mean[:, None])

    def step(recurrent: States, value: States) -> States:
        inner = equation.turned(value - mean * recurrent)
        return equation.turned(matmul(chord.response, inner))

    return _repeat(equation, step, at._replace(going=left), tolerance, CHORD_LIMITS), chord


def _linearise(equation: Hammerstein, slope: States, counted: Bool[Array, "_ _"]) -> Chord:
    """By the mean slope of the samples that are counted."""
    matrix = equation.matrix.T if equation.in_rows else equation.matrix
    total = jnp.sum(jnp.where(counted, slope, 0), axis=0 if equation.in_rows else 1)
    mean = total / jnp.maximum(jnp.sum(counted), 1)
    return chord_of(matrix, mean)


def _repeat(
    equation: Hammerstein,
    step: Callable[[States, States], States],
    start: Iterated,
    tolerance: Array,
    limits: Limits,
    every: int = 1,
) -> Iterated:
    """Repeat v <- step(v, f(b + v)) until each sample is done, or slow; a check every few steps.

    Samples that have ended take the steps of the others too: to keep them would cost as much as
    the rest of the arithmetic on them.
    """

    def advance(check: Array, at: Iterated) -> Iterated:
        recurrent, value, before = at.recurrent, at.value, at.value
        for _ in range(every):
            recurrent, before = step(recurrent, value), value
            value = equation.value(equation.drive + recurrent)
        change = equation.size(value - before)
        number = every * check
        # Of the first step nobody knows how much is left after it.
        ratio = (change / at.change) ** (1 / every)
        ratio = jnp.where(check == 0, limits.ratio, ratio)
        # What is left by a geometric series; and next to a fold, where it is slow, the gradient's
        # error is larger than the state's by as much again.
        left = change * ratio / (1 - jnp.minimum(ratio, limits.ratio)) ** 2
        done = at.going & (left <= RESIDUAL_SHARE * tolerance)
        remaining = jnp.log(RESIDUAL_SHARE * tolerance / left) / jnp.log(ratio)
        # One that needs something else is enough, which then serves all.
        within = jnp.minimum(limits.remaining, limits.expected - number)
        soon = (number < jnp.maximum(limits.patience, 1)) | (remaining <= within)
        soon = soon | ~at.going
        return Iterated(
            recurrent=recurrent,
            value=value,
            change=change,
            # NaN compares false, and ends the sample.
            going=at.going & ~done & (ratio <= limits.ratio) & jnp.all(soon),
            done=at.done | done,
            num_steps=at.num_steps + every * at.going.astype(change.dtype),
        )

    checks = -(-limits.steps // every)
    last = Plain().repeat(advance, start, lambda at: at.going, checks)
    return last._replace(
        recurrent=jnp.where(start.going, last.recurrent, start.recurrent),
        value=jnp.where(start.going, last.value, start.value),
    )
