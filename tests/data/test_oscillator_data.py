"""The oscillator data set: which sample an index names, how samples are distributed and split."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from irnn_jax.data import OscillatorData, trajectory

DATA = OscillatorData()
SMALL = OscillatorData(num_samples=23, num_times=3, test_every=4)


def _assert_equal(actual, expected) -> None:
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_samples_are_these_for_ever():
    # Not derived from anything: what seed 0 gave when it was first drawn.  A change here changes
    # every published number.
    expected = (
        [-0.41168438578387795, 3.6321738697768566, 2.041395236943395],
        [0.5092783139935309, 0.6797783066053368, -0.14987883596021698],
        [1.2162954211235046, 1.5745005011558533, 1.202052652835846],
        [1.6082483530044556, 1.7883566617965698, 0.7840741872787476],
    )
    for actual, known in zip(DATA.draw(np.array([0, 1, 3_999_999])), expected, strict=True):
        np.testing.assert_allclose(actual, known, rtol=1e-13)


def _in_other_batches(sample):
    """`sample` of 400 numbers at once, and pairs of the same samples: this batch, another."""
    numbers = np.arange(400).reshape(4, 100)
    whole = sample(numbers.reshape(-1))

    def rows(part):
        return jax.tree.map(lambda leaf: leaf[part], whole)

    for part in (numbers[::-1, ::-3], numbers[2, 5]):
        yield rows(part), sample(part)
    yield rows(numbers), jax.lax.map(jax.vmap(sample), numbers)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_draw_is_the_same_to_the_last_bit_in_every_batch(dtype):
    for one, other in _in_other_batches(partial(DATA.draw, dtype=dtype)):
        _assert_equal(one, other)


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_sample_is_the_same_in_every_batch(name):
    for (inputs, targets), (other_inputs, other_targets) in _in_other_batches(getattr(DATA, name)):
        _assert_equal(targets, other_targets)
        # Equal bits here too where this was written, but how a compiler fuses 60 operations on
        # the draw is its own affair: 30 eps of |x| <= 10 is what the closed form promises.
        np.testing.assert_allclose(inputs, other_inputs, rtol=0, atol=300 * 2.0**-52)


def test_a_sample_does_not_depend_on_the_configuration():
    numbers = np.arange(2000)
    expected = DATA.draw(numbers)
    contexts = (jax.threefry_partitionable(False), jax.default_prng_impl("rbg"))
    for size, context in enumerate(contexts, start=7):  # a new shape: nothing from jit's cache
        with context:
            actual = DATA.draw(numbers[:size])
        _assert_equal(actual, [leaf[:size] for leaf in expected])
    single = DATA.draw(numbers, np.float32)
    with jax.enable_x64(False):
        _assert_equal(DATA.draw(numbers), single)
        assert DATA.draw(numbers).position.dtype == jnp.float32
    for actual, value in zip(single, expected, strict=True):
        # 8 eps; up to 3 is what ndtri's own arithmetic costs, as the uniforms are exact.
        np.testing.assert_allclose(actual, value, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("name", ["train", "test"])
def test_any_integer_type_names_the_same_sample(kind, name):
    numbers = [0, 3, 127]  # 127 * 5 overflows both 8-bit types
    sampler = getattr(DATA, name)
    for index in (np.array(numbers, kind), jnp.array(numbers, kind)):
        _assert_equal(sampler(index), sampler(numbers))


def test_train_and_test_share_no_sample_and_leave_none_out():
    everything = DATA.num_train, DATA.num_test
    assert everything == (3_200_000, 800_000)
    assert (SMALL.num_train, SMALL.num_test) == (18, 5)
    position = SMALL.draw(np.arange(23)).position  # all different, and x at time 0
    train_start = SMALL.train(np.arange(18))[0][:, 0]
    test_start = SMALL.test(np.arange(5))[0][:, 0]
    np.testing.assert_array_equal(test_start, position[3::4])
    np.testing.assert_array_equal(train_start, np.delete(position, np.s_[3::4]))


def test_last_numbers_are_the_last_samples():
    last = DATA.draw(np.array([3_999_998, 3_999_999]))
    np.testing.assert_array_equal(DATA.train(3_199_999)[0][0], last.position[0])
    np.testing.assert_array_equal(DATA.test(799_999)[0][0], last.position[1])


def test_inputs_and_targets_belong_to_the_oscillator():
    oscillators = DATA.draw(np.arange(0, 50, 5))  # 0, 5, ...: training 0, 4, ...
    inputs, targets = DATA.train(np.arange(0, 40, 4))
    assert inputs.shape == (10, 100)
    times = DATA.times()
    np.testing.assert_allclose(times, 0.1 * np.arange(100), rtol=1e-15)
    expected = trajectory(oscillators, times)
    np.testing.assert_allclose(inputs, expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(targets[:, 0], oscillators.omega0 - 1)
    np.testing.assert_array_equal(targets[:, 1], oscillators.delta / 2)


def test_every_setting_is_used():
    data = OscillatorData(
        seed=1, num_times=7, time_step=0.5, initial_std=3.0, omega0=(3.0, 7.0), delta=(1.0, 5.0)
    )
    numbers = np.arange(1000)
    plain = DATA.draw(numbers)
    other = data.draw(numbers)
    same_seed = OscillatorData(initial_std=3.0, omega0=(3.0, 7.0), delta=(1.0, 5.0)).draw(numbers)
    assert not np.isin(other.position, same_seed.position).any()
    np.testing.assert_allclose(same_seed.position, 1.5 * plain.position, rtol=1e-14)
    np.testing.assert_allclose(same_seed.omega0, 3 + 4 * (plain.omega0 - 1), rtol=1e-14)
    np.testing.assert_allclose(same_seed.delta, 1 + 2 * plain.delta, rtol=1e-14)
    inputs, targets = data.test(numbers[:5])
    assert inputs.shape == (5, 7)
    np.testing.assert_array_equal(data.times(), [0, 0.5, 1, 1.5, 2, 2.5, 3])
    expected = np.stack([(other.omega0 - 3) / 4, (other.delta - 1) / 4], axis=-1)[4:25:5]
    np.testing.assert_allclose(targets, expected, rtol=1e-12)


def test_draws_have_the_papers_distributions():
    count = 100_000
    oscillators = DATA.draw(np.arange(count))
    uniform = np.stack(
        [
            jax.scipy.stats.norm.cdf(leaf / 2)
            for leaf in (oscillators.position, oscillators.velocity)
        ]
        + [oscillators.omega0 - 1, oscillators.delta / 2]
    )
    # Kolmogorov and Smirnov: at most 1.95/sqrt(n) with probability 0.999.
    rank = (np.arange(count) + 0.5) / count
    distance = np.abs(np.sort(uniform, axis=1) - rank).max(axis=1)
    assert (distance < 1.95 / np.sqrt(count)).all(), distance
    # Neither the four quantities nor those of neighbouring samples know of each other.
    both = np.concatenate([uniform[:, 1:], uniform[:, :-1]])
    correlation = np.corrcoef(both) - np.eye(8)
    assert np.abs(correlation).max() < 4 / np.sqrt(count)
    # Moments where KS is weak: the normal's variance and fourth moment, 3, 5 standard errors off.
    normal = np.stack([oscillators.position, oscillators.velocity]) / 2
    np.testing.assert_allclose((normal**2).mean(axis=1), 1, atol=5 * np.sqrt(2 / count))
    np.testing.assert_allclose((normal**4).mean(axis=1), 3, atol=5 * np.sqrt(96 / count))


def test_no_combination_of_the_four_occurs_twice():
    count = 1_000_000  # in float32, the coarser of the two
    oscillators = DATA.draw(np.arange(count), np.float32)
    rows = np.stack(oscillators, axis=1).view(np.uint64)  # (count, 2): four words, two by two
    rows = rows[np.lexsort(rows.T)]
    assert (rows[1:] != rows[:-1]).any(axis=1).all()
    # A single quantity has 2^23 values and must repeat: the check above is not an empty one.
    assert np.unique(oscillators.delta).size < count


def test_samples_stay_in_their_ranges():
    inputs, targets = DATA.train(np.arange(20_000), np.float32)
    assert np.isfinite(inputs).all()
    assert targets.min() >= 0
    assert targets.max() <= 1
    assert np.ptp(targets) > 0.999


def test_equal_settings_compile_once():
    listed: dict[str, Any] = {"omega0": [1, 2], "delta": [0, 2]}  # as YAML has it
    traces = []

    def counted(data, index):
        traces.append(data)
        return data.train(index)

    compiled = jax.jit(counted, static_argnums=0)
    for data in (OscillatorData(), OscillatorData(**listed), OscillatorData(num_times=100)):
        compiled(data, np.arange(3))
    assert len(traces) == 1
    compiled(OscillatorData(seed=1), np.arange(3))
    assert len(traces) == 2


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_no_samples(shape):
    inputs, targets = DATA.train(np.zeros(shape, int))
    assert (inputs.shape, targets.shape) == ((*shape, 100), (*shape, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"seed": 2**32}, "seed must be an integer from 0 to 4294967295"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"seed": True}, "seed must be an integer"),
        ({"num_samples": 4}, "num_samples must be an integer from 5"),
        ({"num_samples": 2**31}, "num_samples must be an integer from 5 to 2147483647"),
        ({"num_times": 0}, "num_times must be an integer from 1"),
        ({"test_every": 1}, "test_every must be an integer from 2"),
        ({"time_step": 0.0}, "time_step must be positive and finite"),
        ({"time_step": float("inf")}, "time_step must be positive and finite"),
        ({"initial_std": -1.0}, "initial_std must be positive and finite"),
        ({"initial_std": float("nan")}, "initial_std must be positive and finite"),
        ({"omega0": (2.0, 1.0)}, "omega0 must be .low, high."),
        ({"omega0": 1.0}, "omega0 must be .low, high."),
        ({"delta": (-1.0, 1.0)}, "delta must be .low, high."),
        ({"delta": (1.0, 1.0)}, "delta must be .low, high."),
        ({"delta": (0.0, 1.0, 2.0)}, "delta must be .low, high."),
        ({"delta": (0.0, float("nan"))}, "delta must be .low, high."),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        OscillatorData(**settings)


@pytest.mark.parametrize(
    ("name", "index", "message"),
    [
        ("draw", 4_000_000, "sample numbers go from 0 to 3999999"),
        ("train", [0, 3_200_000], "training sample numbers go from 0 to 3199999, got 0 to 3200000"),
        ("test", [800_000], "test sample numbers go from 0 to 799999"),
        ("test", -1, "test sample numbers go from 0 to 799999, got -1"),
        ("draw", 2**32, "got 4294967296"),
        ("train", [0.0], "training sample numbers must be integers, got float64"),
        ("train", [True], "must be integers, got bool"),
    ],
)
def test_bad_indices_are_named(name, index, message):
    with pytest.raises(ValueError, match=message):
        getattr(DATA, name)(np.array(index))


def test_dtypes_that_cannot_be_had_are_refused():
    for dtype in (np.float16, np.int32, jnp.bfloat16):
        with pytest.raises(ValueError, match="must be float32 or float64"):
            DATA.train(0, dtype)
    with jax.enable_x64(False), pytest.raises(ValueError, match="needs jax_enable_x64"):
        DATA.train(0, np.float64)
    with pytest.raises(ValueError, match="must be integers, got float64"):
        jax.jit(DATA.train)(0.5)
