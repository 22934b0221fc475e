"""Which functions are refused at the door, and why."""

import jax
import jax.numpy as jnp
import pytest

import irnn_jax as irnn
from irnn_jax.activations import as_activation
from tests.problems import NETWORKS, inputs

pytestmark = pytest.mark.usefixtures("without_runtime_types")


def _heaviside(x):
    return jnp.heaviside(x, 0.5)


@pytest.mark.parametrize("step", [jnp.sign, jnp.round, jnp.floor, _heaviside])
def test_an_activation_without_a_derivative_is_refused(step):
    net = NETWORKS["two_layers"]
    words = f"activation {step.__name__} is without a derivative"
    with pytest.raises(ValueError, match=words):
        irnn.equilibrium(net, inputs(net), activation=step)
    with pytest.raises(ValueError, match=words):
        jax.jit(lambda x: irnn.apply(net, x, activation=(jnp.tanh, step)))(inputs(net))


def _narrow(x):
    return jnp.clip(x, -0.05, 0.05)


def _far(x):
    return jax.nn.relu(x - 100)


@pytest.mark.parametrize(
    "smooth",
    [jax.nn.gelu, jax.nn.relu6, jax.nn.silu, jnp.zeros_like, _narrow, _far, irnn.PowerLaw()],
)
def test_one_that_is_flat_in_places_is_not(smooth):
    assert as_activation(smooth, (2, 1)) is smooth


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("relu", "activation must be a function, or a tuple of them, got 'relu'"),
        (lambda x: x > 0, "must return floating-point numbers, but returns bool"),
    ],
)
def test_what_is_no_function_of_numbers_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        as_activation(wrong, (2, 1))
