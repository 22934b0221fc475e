"""Where a check of whether to go on is costly, loops check less often, and find the same."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import irnn_jax as irnn
from irnn_jax.iterations import refinement
from irnn_jax.xla.device import checks_are_cheap, steps_between_checks
from irnn_jax.xla.loops import Plain
from irnn_jax.xla.precision import is_fast_in_double
from irnn_jax.xla.tuning import STEPS_BETWEEN_CHECKS_ON_A_GPU
from tests.problems import inputs, network, relative_error

STARTS = jnp.asarray([[8.0, 0.5, 1.0], [64.0, 16.0, 5.0]])


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What is only worth it on a GPU is done here, compiled anew."""
    jax.clear_caches()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    yield
    jax.clear_caches()


def _halve(start, check_every, checks=None):
    """Until below 1, at most 20 times: the value, and the number of the last step."""

    def moving(carry):
        if checks is not None:
            jax.debug.callback(checks.append, 1)
        return carry[0] >= 1

    def advance(number, carry):
        going = carry[0] >= 1
        value, last = carry
        return jnp.where(going, value / 2, value), jnp.where(going, number, last)

    start = (start, jnp.full(start.shape, -1, jnp.int32))
    return Plain().repeat(advance, start, moving, 20, check_every)


@pytest.mark.parametrize("steps", [2, 4, 5])
def test_the_same_is_found(steps):
    for solve in (_halve, jax.vmap(_halve, (0, None))):
        expected, actual = solve(STARTS, 1), solve(STARTS, steps)
        np.testing.assert_array_equal(actual, expected)


def test_nothing_is_asked_on_the_way():
    """7 steps: a check before each and one after the last; or two times four, and three checks."""
    for steps, expected in ((1, 8), (4, 3)):
        checks = []
        jax.block_until_ready(_halve(STARTS, steps, checks))
        jax.effects_barrier()
        assert len(checks) == expected


def test_no_more_steps_than_allowed():
    _, last = _halve(jnp.asarray(1e30), 5)
    assert last == 19


@pytest.mark.parametrize("max_steps", [1, 2, 30, 100, 97])
def test_a_divisor_of_the_steps_on_a_gpu(as_on_a_gpu, max_steps):
    assert not checks_are_cheap()
    assert max_steps % steps_between_checks(max_steps) == 0
    assert steps_between_checks(100) == STEPS_BETWEEN_CHECKS_ON_A_GPU


def test_after_each_step_on_a_cpu(as_on_a_cpu):
    assert checks_are_cheap()
    assert steps_between_checks(100) == 1


def test_which_gpus_are_fast_in_double(monkeypatch):
    for capability, fast in (("9.0", True), ("8.9", False), ("gfx90a", False), (None, False)):
        device = types.SimpleNamespace(compute_capability=capability)
        monkeypatch.setattr(jax, "devices", lambda device=device: [device])
        assert is_fast_in_double() == fast
    monkeypatch.setattr(jax, "devices", lambda: [object()])
    assert not is_fast_in_double()


# By plain steps, and by the flow first. In double precision alone, where the GPU is fast in it or
# the products are small, or after single.
@pytest.mark.parametrize(
    ("gain", "double_up_to", "fast"),
    [
        (0.5, 2**24, False),
        (4.0, 0, False),
        pytest.param(4.0, 0, True, marks=pytest.mark.slow),
        pytest.param(0.5, 0, False, marks=pytest.mark.slow),
    ],
)
def test_a_gpus_way_on_any_device(as_on_a_gpu, monkeypatch, gain, double_up_to, fast):
    monkeypatch.setattr(refinement, "DOUBLE_UP_TO", double_up_to)
    monkeypatch.setattr(refinement, "is_fast_in_double", lambda: fast)
    net = network((9, 60, 4), scale=gain / 8)
    x = inputs(net, 40)

    def loss(net, solver):
        result = irnn.equilibrium(net, x, solver=solver)
        return jnp.sum(result.activities[-1] ** 2), result

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    actual, result = gradient(net, irnn.Exponential())
    expected, direct = gradient(net, irnn.PseudoTransient())
    assert jnp.all(result.converged)
    assert jnp.all(direct.converged)
    assert relative_error(result.activities, direct.activities) < 1e-11
    assert relative_error(actual, expected) < 1e-9
