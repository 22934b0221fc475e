"""The damped oscillator of the paper's section 2.4: closed-form trajectories and a data set.

    x'' + 2 delta x' + omega0^2 x = 0,    x(0) = x0,  x'(0) = v0

A network sees x at evenly spaced times and has to name omega0 and delta.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, UInt32

Values = Float[Array, "..."]
Words = UInt32[Array, "..."]  # sample numbers
Trajectories = Float[Array, "... times"]
Samples = tuple[Trajectories, Float[Array, "... targets=2"]]


class Oscillator(NamedTuple):
    """Damped oscillators: where they start and what they are made of.

    The leaves share one shape (...,), or broadcast to one.  In any unit of time T and length L:
    position x(0) in L, velocity x'(0) in L/T, the undamped angular frequency omega0 >= 0 and the
    damping rate delta >= 0 in 1/T.
    """

    position: Values
    velocity: Values
    omega0: Values
    delta: Values


@jax.jit
def trajectory(oscillator: Oscillator, times: Float[ArrayLike, " times"]) -> Trajectories:
    """Position of each oscillator at each time, in closed form.

        x(t) = e^(-delta t) [x0 cos(w t) + (v0 + delta x0) sin(w t)/w],  w^2 = omega0^2 - delta^2

    where cosine and sine turn hyperbolic for w^2 < 0.  Accurate through critical damping, w = 0,
    with derivatives of any order: to a few roundings of x's scale, and to w t roundings where
    that is more, as the phase w t is itself rounded.

    Args:
        oscillator: leaves (...,); omega0 and delta not negative.
        times: (times,), in the oscillator's unit of time; not negative.

    Returns:
        Positions (..., times), of the dtype that the leaves and times promote to.

    Raises:
        ValueError: `times` is not one-dimensional.
    """
    if jnp.ndim(times) != 1:
        raise ValueError(f"times must have one axis, got shape {jnp.shape(times)}")
    dtype = jnp.result_type(*oscillator, times, 0.0)
    t = jnp.asarray(times, dtype)
    x0, v0, omega0, delta = (jnp.asarray(leaf, dtype)[..., None] for leaf in oscillator)

    # Not omega0**2 - delta**2: near critical damping its rounding error would exceed it.
    q = (omega0 - delta) * (omega0 + delta)
    # sqrt has no derivative at 0 and never sees it: angle 0 means the series, without a root.
    at_zero = jnp.abs(q) < float(jnp.finfo(dtype).tiny)
    root = jnp.sqrt(jnp.where(at_zero, 1.0, jnp.abs(q)))
    angle = jnp.where(at_zero, 0.0, root) * t
    turns = jnp.round(angle * (1 / math.pi))
    hyperbolic = (q < 0) & (turns != 0)

    cosine, sine = _circular(q, root, angle, turns, t)
    # With k = root, e^(-delta t) cosh(k t) is 0 * inf under strong damping.  Take out the slow
    # rate delta - k, written omega0^2/(delta + k) lest it cancel, and only decay remains.
    # 1 - e^(-2 k t) does not cancel either: here 2 k t > pi.
    slow = omega0 * omega0 / (delta + root)
    fast = jnp.exp(-2 * angle)
    cosine = jnp.where(hyperbolic, (1 + fast) / 2, cosine)
    sine = jnp.where(hyperbolic, (1 - fast) / (2 * root), sine)
    envelope = jnp.exp(-jnp.where(hyperbolic, slow, delta) * t)
    return envelope * (x0 * cosine + (v0 + delta * x0) * sine)


def _circular(
    q: Values, root: Values, angle: Values, turns: Values, t: Values
) -> tuple[Values, Values]:
    """cos(sqrt(q) t) and sin(sqrt(q) t)/sqrt(q), unless q < 0 and turns > 0 (finite there, unused).

    Without a half-turn both are power series in q t^2, of either sign: derivatives pass through
    critical damping.  After a subtraction of n pi the same series serve every other angle: a
    trajectory costs a third of what it does with XLA's float64 sin and cos on a CPU.
    """
    near = turns == 0
    # Masked, XLA rounds q t t alike in every batch shape; bare, it reorders the product in some.
    near_t = jnp.where(near, t, 0.0)
    high, low = _split_pi(angle.dtype)
    reduced = (angle - turns * high) - turns * low
    # In [-pi/2, pi/2] but for rounding, until angles so large that they have no phase left.
    reduced = jnp.clip(reduced, -2.0, 2.0)
    cosine, sinc = _series(jnp.where(near, q * near_t * near_t, reduced * reduced))
    sign = 1 - 2 * jnp.abs(turns - 2 * jnp.round(turns / 2))  # (-1)^turns
    return sign * cosine, sign * sinc * jnp.where(near, t, reduced / root)


def _series(y: Values) -> tuple[Values, Values]:
    """cos(sqrt(y)) and sin(sqrt(y))/sqrt(y) for |y| <= (pi/2)^2, by their Taylor series.

    The terms (-y)^k/(2k)! fall fast enough on this range that the first one left out is below
    half of the dtype's eps: 11 terms for float64, 7 for float32.  The sum of their sizes is at
    most cosh(pi/2) = 2.5, so cancellation costs no more than a digit in base 2.
    """
    half_eps = float(jnp.finfo(y.dtype).eps) / 2
    num_terms = 1
    while (math.pi / 2) ** (2 * num_terms) / math.factorial(2 * num_terms) > half_eps:
        num_terms += 1
    cosine = sinc = jnp.zeros_like(y)
    for k in reversed(range(num_terms)):
        cosine = cosine * y + (-1) ** k / math.factorial(2 * k)
        sinc = sinc * y + (-1) ** k / math.factorial(2 * k + 1)
    return cosine, sinc


def _split_pi(dtype: np.dtype) -> tuple[float, float]:
    """Pi as high + low (Cody and Waite): `high` has so few bits that n * high is exact."""
    scale = 2.0 ** (jnp.finfo(dtype).nmant // 2 - 1)
    high = round(math.pi * scale) / scale
    return high, (math.pi - high) + 1.2246467991473532e-16  # pi - float(pi)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OscillatorData:
    """Random oscillators addressed by index: 4 million of them, none of them stored.

    Sample i depends on `seed` and i alone, whatever batch it is asked for in.  The paper [section
    2.4] gives the sample count, the split, the time step and the distributions.  It is silent on
    the number of time points and the scale of the targets: 100, and [0, 1] as a sigmoid needs,
    are chosen here.

    Static under `jit`: `jax.jit(OscillatorData.train, static_argnums=0)(data, index)`.

    Attributes:
        seed: which data set, from 0 to 2^32 - 1.
        num_samples: train and test together.
        num_times, time_step: x is seen at 0, time_step, ..., (num_times - 1) time_step.
        initial_std: standard deviation of x(0) and x'(0), whose mean is 0.
        omega0, delta: (low, high), between which they are drawn uniformly.
        test_every: sample i is a test sample if i % test_every == test_every - 1; 5 means 4:1.
    """

    seed: int = 0
    num_samples: int = 4_000_000
    num_times: int = 100
    time_step: float = 0.1
    initial_std: float = 2.0
    omega0: tuple[float, float] = (1.0, 2.0)
    delta: tuple[float, float] = (0.0, 2.0)
    test_every: int = 5

    def __post_init__(self):
        # Sample numbers travel as 32-bit words: with 64 bits a sample would depend on the x64 mode.
        _check_integer("seed", self.seed, 0, 2**32 - 1)
        _check_integer("num_times", self.num_times, 1, 2**31 - 1)
        _check_integer("test_every", self.test_every, 2, 2**31 - 1)
        _check_integer("num_samples", self.num_samples, self.test_every, 2**31 - 1)
        for name in ("time_step", "initial_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        for name in ("omega0", "delta"):
            value = getattr(self, name)
            # A list, as YAML writes it, would not be hashable.
            interval = tuple(value) if isinstance(value, Iterable) else ()
            if len(interval) != 2 or not 0 <= interval[0] < interval[1] < math.inf:
                raise ValueError(f"{name} must be (low, high) with 0 <= low < high, got {value!r}")
            object.__setattr__(self, name, interval)

    @property
    def num_test(self) -> int:
        """How many test samples there are."""
        return self.num_samples // self.test_every

    @property
    def num_train(self) -> int:
        """How many training samples there are."""
        return self.num_samples - self.num_test

    def times(self, dtype: DTypeLike | None = None) -> Float[Array, " times"]:
        """The times (num_times,) at which x is seen."""
        return jnp.asarray(np.arange(self.num_times) * self.time_step, _float_dtype(dtype))

    def draw(self, index: Int[ArrayLike, "..."], dtype: DTypeLike | None = None) -> Oscillator:
        """The oscillators with these numbers, from 0 to num_samples - 1, train and test alike.

        The random bits are the same whether x64 is on or off and for both dtypes, so these agree
        to rounding.  Each quantity has 23 bits, which float32 holds exactly: a single value
        recurs among millions of samples, but the chance that any two of them share all four is
        4e6^2/2^93, below 1e-14.

        Args:
            index: integers of any shape (...,).  To keep a traced index in range is the caller's
                duty: nothing can check it.
            dtype: float32 or float64; JAX's default float if None.

        Returns:
            An `Oscillator` with leaves (...,).

        Raises:
            ValueError: an index is not an integer or out of range; the dtype is not available.
        """
        dtype = _float_dtype(dtype)
        return self._draw(_checked_index(index, self.num_samples, "sample"), dtype)

    def train(self, index: Int[ArrayLike, "..."], dtype: DTypeLike | None = None) -> Samples:
        """The training samples with these numbers, from 0 to num_train - 1.

        Arguments and errors are those of `draw`.  Returns the inputs (..., num_times), x at every
        time, and the targets (..., 2), omega0 and delta, each mapped from its range to [0, 1]:
        with the default ranges omega0 - 1 and delta/2.
        """
        dtype = _float_dtype(dtype)
        index = _checked_index(index, self.num_train, "training sample")
        return self._sample(index + index // (self.test_every - 1), dtype)

    def test(self, index: Int[ArrayLike, "..."], dtype: DTypeLike | None = None) -> Samples:
        """The test samples with these numbers, from 0 to num_test - 1; otherwise like `train`."""
        dtype = _float_dtype(dtype)
        index = _checked_index(index, self.num_test, "test sample")
        return self._sample(index * self.test_every + (self.test_every - 1), dtype)

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def _sample(self, number: Words, dtype: np.dtype) -> Samples:
        oscillator = self._draw(number, dtype)
        inputs = trajectory(oscillator, self.times(dtype))
        (low, high), (weak, strong) = self.omega0, self.delta
        omega0 = (oscillator.omega0 - low) / (high - low)
        delta = (oscillator.delta - weak) / (strong - weak)
        return inputs, jnp.stack((omega0, delta), axis=-1)

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def _draw(self, number: Words, dtype: np.dtype) -> Oscillator:
        uniform = _uniform(self.seed, number, dtype)
        # Accurate in both tails, in float32 too, as `uniform` and 1 - uniform are exact.
        normal = self.initial_std * jax.scipy.special.ndtri(uniform[..., :2])
        (low, high), (weak, strong) = self.omega0, self.delta
        return Oscillator(
            position=normal[..., 0],
            velocity=normal[..., 1],
            omega0=low + (high - low) * uniform[..., 2],
            delta=weak + (strong - weak) * uniform[..., 3],
        )


def _uniform(seed: int, number: Words, dtype: np.dtype) -> Float[Array, "... 4"]:
    """Four uniform numbers in (0, 1) for each sample: odd multiples of 2^-24, exact in float32.

    A counter-based generator used as one: its blocks 2 i and 2 i + 1 are the bits of sample i.
    `fold_in`, unlike `split` and `bits`, gives the same block whatever the settings
    `jax_threefry_partitionable` and `jax_enable_x64`; `impl` overrides a third.
    """
    root = jax.random.key(seed, impl="threefry2x32")
    blocks = 2 * number[..., None] + jnp.arange(2, dtype=jnp.uint32)
    keys = jax.vmap(functools.partial(jax.random.fold_in, root))(blocks.reshape(-1))
    bits = jax.random.key_data(keys).reshape(*number.shape, 4)
    return ((bits >> 9).astype(dtype) + 0.5) * 2.0**-23


def _float_dtype(dtype: DTypeLike | None) -> np.dtype:
    """float32 or float64, JAX's default float if None; never a silent step down to float32."""
    dtype = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"dtype {dtype} needs jax_enable_x64, which is off")
    return dtype


def _checked_index(index: Int[ArrayLike, "..."], size: int, what: str) -> Words:
    """`index` as 32-bit words, whose integer type cannot overflow on the way to a sample number.

    Checked where its values are known: negative numbers would otherwise wrap round in silence.
    """
    values = index if isinstance(index, Tracer) else np.asarray(index)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"{what} numbers must be integers, got {values.dtype}")
    if isinstance(values, np.ndarray) and values.size:
        low, high = values.min(), values.max()
        if low < 0 or high >= size:
            raise ValueError(f"{what} numbers go from 0 to {size - 1}, got {low} to {high}")
    return jnp.asarray(index, jnp.uint32)


def _check_integer(name: str, value: int, low: int, high: int) -> None:
    integral = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not integral or not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")
